"""The messages of KServe's protocol, made from `protos/inference/` (messages.pyi says what they hold).

They live in a pool of their own: an installed tritonclient puts messages of the same names into protobuf's default
pool, and a second copy would end the import of whichever comes later.
"""

from importlib.resources import files

from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

_POOL = DescriptorPool()
_FILES = FileDescriptorSet.FromString(files(__package__).joinpath("inference.binpb").read_bytes())
for _file in _FILES.file:
    DESCRIPTOR = _POOL.AddSerializedFile(_file.SerializeToString())
for _name, _descriptor in DESCRIPTOR.message_types_by_name.items():
    globals()[_name] = GetMessageClass(_descriptor)
for _enum in DESCRIPTOR.enum_types_by_name.values():
    globals().update({value.name: value.number for value in _enum.values})
