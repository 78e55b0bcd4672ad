"""moto's server on a free port of 127.0.0.1, printed on stdout, until stdin closes; run as a child by `ec2.py`.

Not `python -m moto.server`: that one can't choose a free port without a race, outlives a test run that is killed,
answers the second request of a connection 40 ms late (Nagle), and ten things AWS does are missing from moto 5.2 and
put right here, because the project depends on them.
"""

from __future__ import annotations

import base64
import io
import json
import sys
import threading
import time
from collections.abc import Callable
from fnmatch import fnmatchcase

import flask
from moto.core.exceptions import AccessDeniedError
from moto.core.responses import BaseResponse
from moto.core.utils import utcnow
from moto.ec2.models.instances import Instance
from moto.ec2.models.launch_templates import LaunchTemplateVersion
from moto.iam.access_control import IAMPolicyStatement, IAMRequest, PermissionResult, S3IAMRequest
from moto.iam.models import iam_backends
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.exceptions import HTTPException
from werkzeug.serving import WSGIRequestHandler, make_server


def give_starts_a_new_launch_time() -> None:
    """A stopped instance that is started gets a new LaunchTime. Its primary interface keeps the AttachTime of the first launch, in
    moto as on EC2 (EC2 API Reference, "Instance": launchTime is "the time that the instance was last launched"; for the first
    launch "see the attachment time of the primary network interface")."""
    start = Instance.start

    def start_and_stamp(instance: Instance):
        instance.launch_time = utcnow()
        return start(instance)

    Instance.start = start_and_stamp


def let_terminated_instances_release_their_address() -> None:
    """A replacement may get the address of the one that died."""
    terminate = Instance.terminate

    def terminate_and_release(instance: Instance):
        instance.ec2_backend.get_subnet(instance.subnet_id).del_subnet_ip(instance.private_ip)
        return terminate(instance)

    Instance.terminate = terminate_and_release


def let_terminated_instances_show_no_address() -> None:
    """EC2 describes a terminated instance without address and interface, and with an empty name; moto as if it still ran."""
    nothing = {"private_ip_address": None, "private_dns_name": "", "network_interfaces": []}

    def shown_while_it_lives(shown: property, instead: object) -> property:
        return property(lambda instance: instead if instance.state == "terminated" else shown.fget(instance))

    for name, instead in nothing.items():
        setattr(Instance, name, shown_while_it_lives(getattr(Instance, name), instead))


def let_a_templates_later_versions_launch() -> None:
    """An Auto Scaling group launches from any version of its template. moto 5.2.1 keeps a later one's user data as another type than
    the first's, and answers 500 to the launch."""
    try:
        from moto.core.types import Base64EncodedString
    except ImportError:  # moto 5.1 has no such type
        return
    make = LaunchTemplateVersion.__init__

    def make_alike(self: LaunchTemplateVersion, template: object, number: int, data: dict, description: str) -> None:
        told = data.get("UserData")
        make(self, template, number, {**data, "UserData": Base64EncodedString(told)} if isinstance(told, str) else data, description)

    LaunchTemplateVersion.__init__ = make_alike


# What the JSON services call what the others call otherwise.
JSON_CODES = {
    "AccessDenied": "AccessDeniedException",
    "InvalidClientTokenId": "UnrecognizedClientException",
    "SignatureDoesNotMatch": "InvalidSignatureException",
}


def let_json_services_refuse_in_json() -> None:
    """A wrong signature and a missing right are 400 there, and JSON; moto has XML for all but S3."""
    check = BaseResponse._authenticate_and_authorize_normal_action

    def check_and_refuse(self: BaseResponse, resource: str = "*") -> None:
        try:
            check(self, resource)
        except HTTPException as error:
            if "X-Amz-Target" in self.headers:
                error.code = 400
                error.description = json.dumps({"__type": JSON_CODES[error.error_type], "message": error.message})
            raise

    BaseResponse._authenticate_and_authorize_normal_action = check_and_refuse


def let_signed_queries_of_s3_be_checked_as_they_came() -> None:
    """moto checks the signature over the decoded query: a prefix with a slash in it is refused, from boto3 as well (5.2.5)."""
    create = S3IAMRequest._create_aws_request

    def create_as_it_came(self: S3IAMRequest):
        checked = create(self)
        came = flask.request.environ["RAW_URI"]
        if "?" in came:
            checked.url = f"{checked.url.split('?')[0]}?{came.split('?', 1)[1]}"
        return checked

    S3IAMRequest._create_aws_request = create_as_it_came


def let_signed_forms_be_checked_as_they_came() -> None:
    """moto checks the signature over the form as boto3 would write it, a blank as `+`: as `%20`, which is what other SDKs send, it is
    refused (5.2.1). AWS's is over the body's own bytes (IAM User Guide, "Create a signed AWS API request")."""
    create = IAMRequest._create_aws_request

    def create_as_it_came(self: IAMRequest):
        checked = create(self)
        checked.data = flask.request.environ.get(FORM, checked.data)
        return checked

    IAMRequest._create_aws_request = create_as_it_came


FORM = "lab.form"


def keeping_forms(served: Callable) -> Callable:
    """A form's bytes are gone once it is parsed."""

    def serve(environ: dict, start_response: Callable):
        if environ.get("CONTENT_TYPE", "").startswith("application/x-www-form-urlencoded"):
            environ[FORM] = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            environ["wsgi.input"] = io.BytesIO(environ[FORM])
        return served(environ, start_response)

    return serve


def let_conditions_on_s3_be_judged() -> None:
    """A statement whose conditions aren't met says nothing (IAM User Guide, "Policy evaluation logic"); to moto it holds, or denies (5.2.5)."""
    judge = IAMPolicyStatement.is_action_permitted

    def judge_by_the_request(self: IAMPolicyStatement, action: str, *about: object) -> PermissionResult:
        if not action.startswith("s3:"):
            return judge(self, action, *about)
        judged = judge(IAMPolicyStatement({**self._statement, "Condition": {}}), action, *about)
        conditions = self._statement.get("Condition", {}) if judged != PermissionResult.NEUTRAL else {}
        met = all(is_met(operator, key, values) for operator, of in conditions.items() for key, values in of.items())
        return judged if met else PermissionResult.NEUTRAL

    IAMPolicyStatement.is_action_permitted = judge_by_the_request


def is_met(operator: str, key: str, values: str | list[str]) -> bool:
    """(IAM JSON policy reference, "Condition operators": without the key in the request none of these is.)"""
    asked = {"s3:prefix": flask.request.args.get("prefix"), "aws:SecureTransport": str(flask.request.is_secure).lower()}[key]
    matches = {"StringLike": fnmatchcase, "StringEquals": str.__eq__, "Bool": str.__eq__}[operator]
    return asked is not None and any(matches(asked, value) for value in ([values] if isinstance(values, str) else values))


def let_web_identities_be_judged() -> None:
    """AWS takes AssumeRoleWithWebIdentity unsigned, and judges by the token and the role's trust policy (STS API Reference,
    "AssumeRoleWithWebIdentity"). With its auth on moto answers 500, without it takes any token for any role (5.2.1). The token's own
    signature is not checked here: there is no issuer whose keys could be had."""
    check = BaseResponse._authenticate_and_authorize_normal_action

    def check_or_judge(self: BaseResponse, resource: str = "*") -> None:
        if self._get_action() != "AssumeRoleWithWebIdentity":
            return check(self, resource)
        asked = {name: self._get_param(name) for name in ("RoleArn", "RoleSessionName", "WebIdentityToken")}
        claims = claims_of(asked["WebIdentityToken"] or "")
        if claims is None or not asked["RoleSessionName"] or flask.request.headers.get("Authorization"):
            raise TokenRefusedError("InvalidIdentityToken", "The ID Token provided is not a valid JWT.")
        if claims["exp"] <= time.time():
            raise TokenRefusedError("ExpiredTokenException", "Token expired: current date/time must be before the expiration date/time")
        if not trusts(asked["RoleArn"], claims):
            raise AccessDeniedError("*", "sts:AssumeRoleWithWebIdentity")

    BaseResponse._authenticate_and_authorize_normal_action = check_or_judge


class TokenRefusedError(AccessDeniedError):
    """With a code of its own. (What moto derives its refusals from has another name in each release.)"""

    code = 400

    def __init__(self, code: str, message: str):
        super(AccessDeniedError, self).__init__(code, message)


def claims_of(token: str) -> dict | None:
    """A JWT's claims; None: it is none."""
    try:
        _, payload, _ = token.split(".")
        return json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    except ValueError:
        return None


def trusts(arn: str, claims: dict) -> bool:
    account = arn.split(":")[4]
    roles = [role for role in iam_backends[account]["aws"].roles.values() if role.arn == arn]
    statements = [one for role in roles for one in json.loads(role.assume_role_policy_document)["Statement"]]
    provider = claims["iss"].removeprefix("https://")
    wanted = {f"{provider}:aud": claims["aud"], f"{provider}:sub": claims["sub"]}
    return any(
        one["Action"] == "sts:AssumeRoleWithWebIdentity"
        and one["Principal"].get("Federated") == f"arn:aws:iam::{account}:oidc-provider/{provider}"
        and one["Condition"] == {"StringEquals": wanted}
        for one in statements
    )


class OneAtATime:
    """To AWS a call happens as a whole. moto's threads meet in the middle: of two conditional writes both are taken, for each looked
    before either wrote (S3 User Guide, "Conditional writes": one is), and what was made is answered by 500, for the tags that the
    answer lists grew meanwhile, whereupon a client asks again and is told that it exists."""

    def __init__(self, served: Callable):
        self._served = served
        self._one = threading.Lock()

    def __call__(self, *request):
        with self._one:
            return self._served(*request)


class Handler(WSGIRequestHandler):
    disable_nagle_algorithm = True


def application() -> OneAtATime:
    """moto as it is served: changed for the whole process."""
    give_starts_a_new_launch_time()
    let_terminated_instances_release_their_address()
    let_terminated_instances_show_no_address()
    let_a_templates_later_versions_launch()
    let_json_services_refuse_in_json()
    let_signed_queries_of_s3_be_checked_as_they_came()
    let_signed_forms_be_checked_as_they_came()
    let_conditions_on_s3_be_judged()
    let_web_identities_be_judged()
    return OneAtATime(keeping_forms(DomainDispatcherApplication(create_backend_app)))


def main() -> None:
    server = make_server("127.0.0.1", 0, application(), threaded=True, request_handler=Handler)
    print(server.port, flush=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdin.read()  # ends when the parent does, whichever way


if __name__ == "__main__":
    main()
