//! The tables. A row is one line: what it is called, how many bytes it moves, and the commands as one would type them.

use crate::table::{Place, Row, Table};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
/// As large as `des.txt`.
const SMALL: u64 = 2_116;

const SERVER: &str = "file-server --bind 127.0.0.1 --file {from} 0";
const CLIENT: &str = "file-client 127.0.0.1 {port} --output {to}";
const CLIENT_NO_SYNC: &str = "file-client 127.0.0.1 {port} --no-sync --output {to}";
const STATIC_SERVER: &str = "static/file-server --bind 127.0.0.1 --file {from} 0";
const STATIC_CLIENT: &str = "static/file-client 127.0.0.1 {port} --output {to}";
const STATIC_CLIENT_NO_SYNC: &str = "static/file-client 127.0.0.1 {port} --no-sync --output {to}";
const KEY_SERVER: &str = "file-server --bind 127.0.0.1 --key j4nb-jdvz-hem5-r5ca-m6tb-tdax-3ypg --file {from} 0";
const KEY_CLIENT: &str = "file-client 127.0.0.1 {port} --key j4nb-jdvz-hem5-r5ca-m6tb-tdax-3ypg --output {to}";
const KEY_CLIENT_NO_SYNC: &str =
    "file-client 127.0.0.1 {port} --key j4nb-jdvz-hem5-r5ca-m6tb-tdax-3ypg --no-sync --output {to}";
const SHA256_SERVER: &str = "file-server --bind 127.0.0.1 --sha256 --file {from} 0";
const SHA256_CLIENT: &str = "file-client 127.0.0.1 {port} --sha256 {sha256} --output {to}";
const C_SERVER: &str = "textbook-server 0 {from}";
const C_CLIENT: &str = "textbook-client 127.0.0.1 {port} {to}";
const NC_SERVER: &str = "nc.openbsd -N -l 127.0.0.1 {port} < {from}";
const NC_CLIENT: &str = "nc.openbsd -d 127.0.0.1 {port} > {to}";
const NCAT_SERVER: &str = "ncat --send-only -l 127.0.0.1 {port} < {from}";
const NCAT_CLIENT: &str = "ncat --recv-only 127.0.0.1 {port} > {to}";
const SOCAT_SERVER: &str = "socat -u -b262144 OPEN:{from},rdonly TCP-LISTEN:{port},bind=127.0.0.1,reuseaddr";
const SOCAT_CLIENT: &str = "socat -u -b262144 TCP:127.0.0.1:{port} CREATE:{to}";
const SOCAT_TLS_SERVER: &str = "socat -u -b262144 OPEN:{from},rdonly \
    OPENSSL-LISTEN:{port},bind=127.0.0.1,reuseaddr,cert={certificate},verify=0";
const SOCAT_TLS_CLIENT: &str = "socat -u -b262144 OPENSSL:127.0.0.1:{port},verify=0 CREATE:{to}";
const SSH_CAT: &str = "ssh -F {ssh} peer cat {from} > {to}";
const SCP: &str = "scp -q -F {ssh} peer:{from} {to}";

/// The first row of a table is what the others are compared with.
pub const TABLES: &[Table] = &[
    Table {
        title: "1 GiB, memory to memory over loopback",
        place: Place::Memory,
        rounds: 11,
        rows: &[
            // Without this option, cp would look for blocks of zeros.
            Row::new("cp", GIB, &["cp --sparse=never {from} {to}"]),
            Row::new("the pair", GIB, &[SERVER, CLIENT]),
            Row::new("the pair, --key", GIB, &[KEY_SERVER, KEY_CLIENT]),
            Row::new("the pair, --sha256", GIB, &[SHA256_SERVER, SHA256_CLIENT]),
            Row::new("socat -b262144", GIB, &[SOCAT_SERVER, SOCAT_CLIENT]),
            Row::new("nc", GIB, &[NC_SERVER, NC_CLIENT]),
            Row::new("ncat", GIB, &[NCAT_SERVER, NCAT_CLIENT]),
            Row::new("socat OPENSSL -b262144", GIB, &[SOCAT_TLS_SERVER, SOCAT_TLS_CLIENT]),
            // Their server runs already.
            Row::new("ssh cat (aes128-gcm)", GIB, &[SSH_CAT]),
            Row::new("scp (aes128-gcm)", GIB, &[SCP]),
        ],
    },
    Table {
        title: "1 GiB to a disk, synced",
        place: Place::Disk,
        rounds: 11,
        rows: &[
            Row::new("dd bs=1M conv=fsync", GIB, &["dd if={from} of={to} bs=1M conv=fsync"]),
            Row::new("the pair", GIB, &[SERVER, CLIENT]),
            Row::new("nc, then sync FILE", GIB, &[NC_SERVER, NC_CLIENT, "sync {to}"]),
        ],
    },
    Table {
        title: "A file of 2,116 bytes, as des.txt, to a disk",
        place: Place::Disk,
        rounds: 100,
        rows: &[
            Row::new("the textbook pair in C", SMALL, &[C_SERVER, C_CLIENT]),
            Row::new("the static pair, --no-sync", SMALL, &[STATIC_SERVER, STATIC_CLIENT_NO_SYNC]),
            Row::new("the static pair", SMALL, &[STATIC_SERVER, STATIC_CLIENT]),
            Row::new("the pair, --no-sync", SMALL, &[SERVER, CLIENT_NO_SYNC]),
            Row::new("the pair, --no-sync, --key", SMALL, &[KEY_SERVER, KEY_CLIENT_NO_SYNC]),
            Row::new("the pair", SMALL, &[SERVER, CLIENT]),
        ],
    },
    Table {
        title: "Time grows with the bytes (the pair, memory to memory)",
        place: Place::Memory,
        rounds: 5,
        rows: &[
            Row::new("64 MiB", 64 * MIB, &[SERVER, CLIENT]),
            Row::new("256 MiB", 256 * MIB, &[SERVER, CLIENT]),
            Row::new("1 GiB", GIB, &[SERVER, CLIENT]),
            Row::new("4 GiB", 4 * GIB, &[SERVER, CLIENT]),
        ],
    },
];
