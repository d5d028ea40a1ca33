"""What the commands are told and how it is read; nothing here imports torch or a model.

`segkit COMMAND --help` imports only these modules; the work is in `segkit.cli.COMMAND`.
"""
