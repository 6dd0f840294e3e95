import os
from importlib.metadata import version

from duly.rpc.transport_experiments import experiments

# Both variables are read once, when gRPC is first imported, and what the operator has set stays.
# gRPC's own lines, such as one for each TLS handshake that fails, are written by its threads straight to standard
# error. Anybody who can connect could cause them, and where nobody reads they would block those threads.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
os.environ.setdefault("GRPC_EXPERIMENTS", experiments(version("grpcio")))
