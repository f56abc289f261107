"""Every maximum in one place, with its unit in its name."""

from __future__ import annotations

from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * KIB

# Bodies
MAX_JSON_BYTES: Final = 1 * MIB  # any control message but a roster
MAX_ROSTER_BYTES: Final = 8 * MIB  # signed join messages and certificates of the largest cohort
MAX_JSON_DEPTH: Final = 32  # nesting of a control message
MAX_VECTOR_BYTES: Final = 1024 * MIB  # one masked vector
MAX_BLOB_BYTES: Final = 2048 * MIB  # one content-addressed file
MAX_NAME_CHARACTERS: Final = 64  # names of tasks and devices
READ_PIECE_BYTES: Final = 256 * KIB  # bodies are read and hashed in pieces of this size
OBJECT_PIECE_BYTES: Final = 1 * MIB  # that one request to an object store brings
MIN_FREE_BYTES: Final = 64 * MIB  # on the aggregator's disk, below which it says that it is not ready
RECEIVE_PIECE_BYTES: Final = 4 * KIB  # of an upload, at most, is lost with a connection that breaks
RECEIVE_DELAY_S: Final = 1.0  # an upload that comes slowly is written this often, and every READ_PIECE_BYTES

# Secure aggregation
MAX_COMPLETE_GRAPH_MEMBERS: Final = 64  # above it a sparse graph is used
MAX_COHORT_MEMBERS: Final = 4096  # every device reads and verifies the whole roster
MAX_NEIGHBOURS: Final = 1024  # of one member of a sparse graph
MASK_PIECE_BYTES: Final = 128 * KIB  # keystream piece that stays in the L2 cache; one big call is 7 times slower
MASK_BYTES_PER_WORKER: Final = 1024 * MIB  # keystream for which starting one more process pays
MAX_SHARE_SUBSETS: Final = 2000  # combinations tried when a share is wrong, before the cohort fails
MAX_ROUNDING_TRIES: Final = 200  # conditional rounding; each try succeeds with probability above 0.39

# Waiting
MAX_POLL_HOLD_S: Final = 10.0  # how long the server may hold a request that has nothing to answer yet
POLL_INTERVAL_S: Final = 0.01  # how often a held request looks again
REMOTE_POLL_INTERVAL_S: Final = 0.05  # the same where looking is a request to a database server
RETRY_AFTER_MS: Final = 500  # the server's usual advice to a device that must wait

# Numbers
MAX_MEMBERS: Final = 100_000  # for which parameters are computed and messages are read
MAX_EXAMPLE_LOSS: Final = 100.0  # the evaluation loss of one example is clipped here before it is summed
LOSS_UNITS_PER_NAT: Final = 2**16  # fixed point of the summed evaluation loss
MAX_NOISED_LOSS: Final = 10.0  # nats; under noise a device's mean loss is clipped here, so that noise costs less
MAX_TRAINING_INPUTS: Final = 16  # that a plan sets by name
MAX_EVALUATED_EXAMPLES: Final = 2**20  # per device and round
