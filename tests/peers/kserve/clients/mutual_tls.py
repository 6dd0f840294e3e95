"""tritonclient.grpc over TLS where both sides show a certificate."""

import checking
import tritonclient.grpc as triton
from checking import Server
from refusals import refused
from tensors import a_and_b, is_added


def check_who_shows_a_certificate(server: Server) -> None:
    certs = server.folder / "certs"
    pair = {"private_key": str(certs / "client.key"), "certificate_chain": str(certs / "client.pem")}
    ca = str(certs / "ca.pem")
    with triton.InferenceServerClient(server.address, ssl=True, root_certificates=ca, **pair) as client:
        assert client.is_server_live()
        is_added(client.infer("add_sub", a_and_b()))


def check_who_shows_none(server: Server) -> None:
    ca = str(server.folder / "certs" / "ca.pem")
    with triton.InferenceServerClient(server.address, ssl=True, root_certificates=ca) as client:
        refused("UNAVAILABLE|UNAUTHENTICATED", (), client.infer, "add_sub", a_and_b())


if __name__ == "__main__":
    checking.run(globals())
