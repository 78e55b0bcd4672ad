"""moto's server on a free port of 127.0.0.1, printed on stdout, until stdin closes; run as a child by `lab.ec2`.

Not `python -m moto.server`: that one can't choose a free port without a race, outlives a test run that is killed,
answers the second request of a connection 40 ms late (Nagle), and four things AWS does are missing from moto 5.2 and
put right here, because the project depends on them.
"""

from __future__ import annotations

import json
import sys
import threading

from moto.core.responses import BaseResponse
from moto.core.utils import utcnow
from moto.ec2.models.instances import Instance
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from moto.s3.responses import S3Response
from werkzeug.exceptions import HTTPException
from werkzeug.serving import WSGIRequestHandler, make_server


def give_starts_a_new_launch_time() -> None:
    """A stopped instance that is started gets a new LaunchTime, which ranks it anew."""
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


def let_one_conditional_write_win() -> None:
    """Of two at once S3 takes one (User Guide, "Conditional writes"); moto looks, then writes, and may take both."""
    put = S3Response.put_object
    one_at_a_time = threading.Lock()

    def put_alone(self: S3Response):
        with one_at_a_time:
            return put(self)

    S3Response.put_object = put_alone


class Handler(WSGIRequestHandler):
    disable_nagle_algorithm = True


def application() -> DomainDispatcherApplication:
    """moto as it is served: changed for the whole process."""
    give_starts_a_new_launch_time()
    let_terminated_instances_release_their_address()
    let_json_services_refuse_in_json()
    let_one_conditional_write_win()
    return DomainDispatcherApplication(create_backend_app)


def main() -> None:
    server = make_server("127.0.0.1", 0, application(), threaded=True, request_handler=Handler)
    print(server.port, flush=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdin.read()  # ends when the parent does, whichever way


if __name__ == "__main__":
    main()
