"""moto's server on a free port of 127.0.0.1, printed on stdout, until stdin closes; run as a child by `lab.ec2`.

Not `python -m moto.server`: that one can't choose a free port without a race, outlives a test run that is killed,
answers the second request of a connection 40 ms late (Nagle), and two things EC2 does are missing from moto 5.2 and
put right here, because the project depends on both.
"""

from __future__ import annotations

import sys
import threading

from moto.core.utils import utcnow
from moto.ec2.models.instances import Instance
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
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


class Handler(WSGIRequestHandler):
    disable_nagle_algorithm = True


def main() -> None:
    give_starts_a_new_launch_time()
    let_terminated_instances_release_their_address()
    application = DomainDispatcherApplication(create_backend_app)
    server = make_server("127.0.0.1", 0, application, threaded=True, request_handler=Handler)
    print(server.port, flush=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdin.read()  # ends when the parent does, whichever way


if __name__ == "__main__":
    main()
