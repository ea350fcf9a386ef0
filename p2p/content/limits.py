"""Every limit on what a stranger can make grow, in one place.

Sizes are bytes, durations seconds, everything else counts. A decoder checks the declared size
against these before it allocates, so that a hostile index, frame or message costs at most its cap.
"""

from __future__ import annotations

KIB = 1024
MIB = 1024 * KIB

# Content
IMAGE_SIZE_MAX = 1 << 44  # 16 TiB: offsets fit in 48 bits and file sizes never overflow
INDEX_SIZE_MAX = 64 * MIB
INDEX_ENTRIES_MAX = 1 << 20
CHUNK_SIZE_MIN = 32 * KIB
CHUNK_SIZE_AVG = 128 * KIB
CHUNK_SIZE_MAX = 512 * KIB
DATA_FRAME_TARGET_MAX = 4 * MIB  # uncompressed bytes that one DATA frame may hold
DATA_FRAME_CHUNKS_MAX = 1024
PATCH_TARGET_MAX = 4 * MIB
BASE_VIEW_MAX = 12 * MIB
BASE_VIEW_RANGES_MAX = 64
PATCH_DELTA_MAX = 8 * MIB  # the uncompressed delta of one patch frame
STORED_FRAME_MAX = 8 * MIB
SPOOL_MEMORY_MIN, SPOOL_MEMORY_MAX = 8 * MIB, 32 * MIB  # patches kept for peers in memory, by its size

# Signed documents
MANIFEST_SIZE_MAX = 1 * MIB
ORDER_SIZE_MAX = 1 * MIB
PAYLOADS_MAX = 64
PACKS_PER_PAYLOAD_MAX = 256
ORDERS_PER_PRODUCT_MAX = 256
NAME_LENGTH_MAX = 128
LIST_LENGTH_MAX = 10_000

# Revocations
REVOCATIONS_PER_PART_MAX = 256
REVOCATION_PARTS_MAX = 64
REVOCATION_PART_SIZE_MAX = 128 * KIB
REVOCATION_NUMBER_MAX = (1 << 53) - 1
REVOCATIONS_KEPT_MAX = 2 * REVOCATIONS_PER_PART_MAX * REVOCATION_PARTS_MAX  # certificates that a device keeps

# Bundles
BUNDLE_TABLE_MAX = 8 * MIB
BUNDLE_OBJECTS_MAX = 20_000
BUNDLE_NAME_MAX = 512  # characters
BUNDLE_PARTS_MAX = 9999  # files that hold one object

# TUF metadata (bytes), as python-tuf's client bounds them
ROOT_SIZE_MAX = 512_000
TIMESTAMP_SIZE_MAX = 16_384
SNAPSHOT_SIZE_MAX = 2_000_000
TARGETS_SIZE_MAX = 5_000_000
ROOT_ROTATIONS_MAX = 256
DELEGATIONS_MAX = 32

# Swarm
MESSAGE_HEADER_MAX = 64 * KIB
MESSAGE_PAYLOAD_MAX = STORED_FRAME_MAX
PART_SIZE, PART_SIZE_SMALL = 128 * KIB, 32 * KIB  # of parts of a piece; on a connection that is slow
PARTS_FROM = 2  # pieces of more than so many parts come in parts
PART_SIZE_MIN = 16 * KIB  # the least that is taken
OBJECT_SIZE_MAX = 4 * MIB  # small objects that peers pass on: metadata, manifests, orders, indexes
PEERS_MAX = 64
PEER_EXCHANGE_MAX = 32
REQUESTS_PER_PEER_MAX = 64
PIECES_PER_PACK_MAX = 1 << 20
PEER_DELTAS_PER_PEER_MAX = 2  # that are made for one peer, or asked of one, at once
PEER_DELTAS_WAITING_MAX = 16  # different ones that are made or wait for it
PEER_DELTA_PART_MAX = 0.75  # of what it makes: a larger one is worth nobody's processor time, and not taken
IMAGES_PER_PEER_MAX = 128
CLAIMS_PER_PEER_MAX = 1 * MIB  # bitmap bytes of packs whose index is not known, per peer
LEASE_BYTES_MAX = 8 * MIB  # stored bytes that one lease may cover, if it covers more than one frame
CLAIMS_MAX = 8  # devices that one message tells of by hearsay
CLAIM_LEASES_MAX = 4
CLAIM_AGE_MAX = 65535  # tenths of a second
ASKED_AGE_MAX = 65535  # seconds since the origin was asked, that are told
UPLINKS_MAX = 1024  # devices of a site whose WAN bytes of a month are remembered
UPLINKS_TOLD_MAX = 64  # and that one message tells of
PRICE_UNIT = 1_000_000  # prices are told in millionths per MB
PRICE_MAX = 1_000_000 * PRICE_UNIT
MONTH_MAX = 999_912
HAVE_MORE_MAX = 4096  # pieces that one message may add
HANDSHAKE_S = 10.0
HALF_OPEN_MAX = 128  # inbound connections that are not yet authenticated
HALF_OPEN_PER_ADDRESS_MAX = 32
DISCOVERED_MAX = 1024  # peers that one discovery source may report
PEER_IDLE_S = 60.0

# Origin
ORIGIN_HEADER_MAX = 32 * KIB
ORIGIN_CONNECT_S = 15.0
ORIGIN_IDLE_S = 30.0
ORIGIN_RATE_MIN = 128  # bytes per second, averaged over ORIGIN_IDLE_S
ORIGIN_SMALL_S = 600.0  # a whole metadata file or small object, or one answer of the device API
ORIGIN_REDIRECTS_MAX = 3
ORIGIN_IDLE_CONNECTIONS_MAX = 4
DEVICE_API_ANSWER_MAX = 4 * MIB

# Signed reports
REPORT_SIZE_MAX = 16 * KIB  # one, with its signature
CERTIFICATE_SIZE_MAX = 16 * KIB  # a device certificate in PEM, with the names of its groups
REPORTS_PER_BATCH_MAX = 128
REPORTS_CARRIED_MAX = (
    1024  # that a carrier takes home, one of each device; 16 MiB at most, about 1 MiB as a rule
)
CARRIED_PRODUCTS_MAX = 64  # that a carrier takes along, configured or learned from those that it met
CARRIED_ASKERS_MAX = 1024  # devices without a WAN of which it is remembered what they asked for
REPORT_HOPS_MAX = 8  # peers that one goes through, after the first
REPORT_BATCH_MAX = 1 * MIB  # a batch, decoded
REPORT_BATCH_CODED_MAX = 256 * KIB  # and as it is sent
REPORT_QUIET_MAX_S = 7 * 86_400  # for how long a device may announce that it will not be heard of
