"""From what was asked for to the parts of a run: settings in layers, specs looked up, and what goes together.

    settings.py          every setting, declared once
    resolve.py           layers of settings → one `RunConfig`, and who chose what
    specs.py             `NAME[:WEIGHT][,KEY=VALUE]…` → the installed thing and its options
    task_specs.py        `--task "--reward … --prompts …"`;  constraint_specs.py  `NAME,min=…`
    pairs.py             which estimator, sampler and model go together
    presets/             settings that ship, such as paper/aesthetic
    given.py             what Python hands over: functions, lists of prompts, loaded pipelines
    phrasing.py          errors in the words of Python
    provenance.py        which distribution, version, files and weights gave each part
    parts.py             a `RunConfig` → the objects that `training.train` is given

`ddpo train` and `ddpo_core.train` both come through here. Only `parts.py` imports torch, when called.
"""
