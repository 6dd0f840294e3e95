import os

# gRPC's own lines, such as one for each TLS handshake that fails, are written by its threads straight to standard
# error. Anybody who can connect could cause them, and where nobody reads they would block those threads. The variable
# is read once, when gRPC is first imported.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
