"""The lab: EC2 and its instances on one machine, for the demo, the benchmark and the end-to-end tests.

Nothing is imported here: `replay` and `imds` need the standard library only, `ec2` needs boto3.
"""
