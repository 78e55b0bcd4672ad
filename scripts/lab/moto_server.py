"""moto's server on a free port of 127.0.0.1, printed on stdout, until stdin closes; run as a child by `lab.ec2`.

Not `python -m moto.server`: that one can't choose a free port without a race, outlives a test run that is killed,
answers the second request of a connection 40 ms late (Nagle), and five things AWS does are missing from moto 5.2 and
put right here, because the project depends on them.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable

from moto.core.responses import BaseResponse
from moto.core.utils import utcnow
from moto.ec2.models.instances import Instance
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
    let_json_services_refuse_in_json()
    return OneAtATime(DomainDispatcherApplication(create_backend_app))


def main() -> None:
    server = make_server("127.0.0.1", 0, application(), threaded=True, request_handler=Handler)
    print(server.port, flush=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdin.read()  # ends when the parent does, whichever way


if __name__ == "__main__":
    main()
