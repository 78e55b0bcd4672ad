"""What the programs in scripts/ do: each of them imports its `main` from here, and no more.

`lab` is EC2 and its instances on one machine; `repository` and `command` are what the programs have in common.
"""
