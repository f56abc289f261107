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
MAX_SEALED_UPDATE_BYTES: Final = 512 * MIB  # a trained update that waits on a device's disk
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
MAX_RETRY_AFTER_MS: Final = 24 * 3600 * 1000  # its longest advice

# Identity keys
MIN_RENEWAL_INTERVAL_S: Final = 3600.0  # between two certificates of one device: each stays in the log
MAX_FORMER_KEYS_TRIED: Final = 8  # the newest ones, before a request's signature is called nobody's

# Numbers
MAX_MEMBERS: Final = 100_000  # for which parameters are computed and messages are read
MAX_EXAMPLE_LOSS: Final = 100.0  # the evaluation loss of one example is clipped here before it is summed
LOSS_UNITS_PER_NAT: Final = 2**16  # fixed point of the summed evaluation loss
MAX_NOISED_LOSS: Final = 10.0  # nats; under noise a device's mean loss is clipped here, so that noise costs less
MAX_TRAINING_INPUTS: Final = 16  # that a plan sets by name
MAX_GROUPS: Final = 100  # of devices, that a plan names
MAX_MEMORY_MIB: Final = 2**20  # that a device says it has
MAX_EVALUATED_EXAMPLES: Final = 2**20  # per device and round

# Requests that one asker may make of one process of a server; what is above is refused with ``too-many-requests``
REQUESTS_PER_ADDRESS_S: Final = 50.0  # that no device proved to be its own; proven ones are not counted
REQUESTS_PER_DEVICE_S: Final = 20.0  # proven ones
BURST_S: Final = 20.0  # so many seconds' requests may come at once
MAX_LIMITED_ADDRESSES: Final = 65_536  # remembered at once; the one that was silent longest is forgotten
MAX_LIMITED_DEVICES: Final = 65_536
MAX_UPLOADS_PER_DEVICE: Final = 4  # at once: one, and those that fell silent before it
MAX_UPLOADS_PER_ADDRESS: Final = 512  # at once
MIN_BUSY_RETRY_MS: Final = 250  # a device that is told to come back is not told to do so sooner
IPV6_PREFIX_BITS: Final = 64  # one network of addresses counts as one

# Connections of one web process
MAX_CONNECTIONS: Final = 2048
MAX_CONNECTIONS_PER_ADDRESS: Final = 1024
SPARE_DESCRIPTORS: Final = 512  # for files, the database and the listening socket
KEEP_ALIVE_S: Final = 75.0  # between two requests
MAX_HANDSHAKE_S: Final = 20.0  # of TLS
MAX_HEAD_S: Final = 20.0  # from a request's first byte to the end of its headers
MAX_BODY_SILENCE_S: Final = 30.0  # between two pieces of a body
BODY_GRACE_S: Final = 30.0  # of waiting, after which a body must have come at MIN_BODY_BYTES_PER_S on average
MIN_BODY_BYTES_PER_S: Final = 64
MAX_SEND_SILENCE_S: Final = 60.0  # for each piece of an answer to be taken
SEND_PIECE_BYTES: Final = 16 * KIB

# Operators
MIN_PASSWORD_CHARACTERS: Final = 12
MAX_PASSWORD_CHARACTERS: Final = 256
MAX_REASON_CHARACTERS: Final = 200  # that an operator gives
MAX_LABEL_CHARACTERS: Final = 100
MAX_TOKEN_VALID_S: Final = 366 * 86400.0
SESSION_IDLE_S: Final = 3600.0  # after which a browser must sign in again
SESSION_LASTS_S: Final = 12 * 3600.0  # even if it is used all the time
SIGN_IN_WINDOW_S: Final = 900.0  # in which so many tries are looked at:
MAX_ADDRESS_ATTEMPTS: Final = 20
MAX_ACCOUNT_ATTEMPTS: Final = 10
MAX_FORM_BYTES: Final = 1 * MIB  # of the page, other than one that brings a model
MAX_FORM_FIELDS: Final = 100
MAX_BUNDLE_BYTES: Final = 256 * MIB  # that a page takes; larger models come by the command line
MAX_SHOWN_CODES: Final = 100  # on one page
