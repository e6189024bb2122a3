"""How the pocket model is made: collect drawings, render, train, evaluate. Not part of the wheel."""
