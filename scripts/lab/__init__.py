"""The lab: EC2 and its instances on one machine, for the demo, the benchmark and the end-to-end tests.

Nothing is imported here: `lab.replay` and `lab.imds` need the standard library only, `lab.ec2` needs boto3.
"""
