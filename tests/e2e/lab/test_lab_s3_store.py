"""The lab's S3 treats conditional writes as the stores do that were measured: a client that nobody here wrote sees each row."""

import http.client

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from muster_tools.lab.s3_store import STORES, S3Store

CONFIG = Config(retries={"total_max_attempts": 1}, proxies={}, s3={"addressing_style": "path"})
WRONG = "0" * 32
BOTO = boto3.session.Session()  # keeps S3's model, which takes a second to read

# If-None-Match: * on an object that is there, and not; If-Match wrong, right in quotes, right bare; If-Match on a missing object.
MEASURED = {
    "AWS": (412, 200, 412, 200, 200, 404),
    "radosgw 16": (412, 200, 412, 412, 200, 412),
    "radosgw 18": (412, 200, 412, 412, 200, 412),
    "radosgw 20": (412, 200, 412, 200, 200, 404),
    "ministack": (412, 200, 412, 200, 200, 404),
    "rclone": (200, 200, 200, 200, 200, 200),
    "nanio": (200, 200, 200, 200, 200, 200),
    "pys3local": (200, 200, 200, 200, 200, 200),
    "localbucket": (412, 200, 200, 200, 200, 200),
    "s3s-fs": (412, 200, 412, 200, 200, 412),
    "refuses all": (412, 412, 412, 412, 412, 412),
    "keeps nothing": (200, 200, 404, 404, 404, 404),
}


def client(store: S3Store, region: str = "us-east-1", **more):
    keys = {"aws_access_key_id": "AKIDEXAMPLE", "aws_secret_access_key": "secret", **more}
    return BOTO.client("s3", endpoint_url=store.url, region_name=region, config=CONFIG, **keys)


def put(s3, key: str, body: bytes = b"body", **condition: str) -> int:
    try:
        return s3.put_object(Bucket="b", Key=key, Body=body, **condition)["ResponseMetadata"]["HTTPStatusCode"]
    except ClientError as refused:
        return refused.response["ResponseMetadata"]["HTTPStatusCode"]


@pytest.mark.parametrize("name", STORES)
def test_conditional_writes_are_treated_as_they_were_measured(name):
    with S3Store(name) as store:
        s3 = client(store)
        etag = s3.put_object(Bucket="b", Key="there", Body=b"body")["ETag"]
        assert etag.startswith('"') and etag.endswith('"')
        assert MEASURED[name] == (
            put(s3, "there", IfNoneMatch="*"),
            put(s3, "missing", IfNoneMatch="*"),
            put(s3, "there", IfMatch=WRONG),
            put(s3, "there", IfMatch=etag),
            put(s3, "there", IfMatch=etag.strip('"')),
            put(s3, "missing too", IfMatch=WRONG),
        )
        assert [write.status for write in store.writes][1:] == list(MEASURED[name])


def test_what_was_written_is_read_and_a_missing_key_is_said():
    with S3Store() as store:
        s3 = client(store)
        written = s3.put_object(Bucket="b", Key="a b/c", Body=b"body")
        read = s3.get_object(Bucket="b", Key="a b/c")
        assert (read["Body"].read(), read["ETag"]) == (b"body", written["ETag"])
        with pytest.raises(s3.exceptions.NoSuchKey):
            s3.get_object(Bucket="b", Key="none")
        assert store.objects == {"b/a b/c": b"body"}


def ask(store: S3Store, **headers: str) -> tuple[int, str | None]:
    connection = http.client.HTTPConnection(store.url.partition("//")[2])
    connection.request("GET", "/b/key", headers=headers)
    answer = connection.getresponse()
    return answer.status, answer.getheader("x-amz-bucket-region")


def test_an_unsigned_call_and_one_for_another_region_are_refused():
    scope = "AWS4-HMAC-SHA256 Credential=AKID/20260102/{}/s3/aws4_request, SignedHeaders=host;x-amz-date, Signature=" + "0" * 64
    with S3Store("ministack") as store:
        assert ask(store) == (403, None)
        assert ask(store, Authorization=scope.format("eu-west-1")) == (301, "us-east-1")
        assert ask(store, Authorization=scope.format("us-east-1")) == (404, None)
