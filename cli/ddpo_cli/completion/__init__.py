"""Shell completion: `--reward je<TAB>`, `--reward jpeg,<TAB>`, `--reward jpeg,on_error=<TAB>`.

    shells.py  what is installed in a shell, how it asks, and how it wants its answer
    lines.py   which option or argument of which command the cursor stands at
    values.py  what may stand there

Typer completes names and options, too. This does what it does not: bash breaks words at ':' and '=', which
our specs are full of, and no shell should put a space behind `KEY=`.
"""
