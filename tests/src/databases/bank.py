"""A bank in one of several databases: transfers keep the sum of all balances, and each is counted in the same transaction.

bank.py work KIND DIR [ASIDE]     makes it, prints `ready`, waits for a line, and transfers until it is killed
bank.py check KIND COPY [ASIDE]   lets the database recover COPY, checks it, and prints how many transfers it has

Beside the database lies `ack`: how many transfers were acknowledged. It is written after each, so that in any one moment the
database has as many, or one more. ASIDE is a folder for sockets. What this starts is in its own process group.
"""
import base64, json, os, random, socket, struct, subprocess, sys, time, urllib.request

ACCOUNTS, START = 2000, 1000


def pad():
    return os.urandom(150).hex()


def key(n):
    return b"a%06d" % n


class Sqlite:
    """Few pages are cached, so that large transactions write before they commit."""

    def __init__(self, folder, aside, mode):
        import sqlite3
        self.path, self.mode = os.path.join(folder, "bank.db"), mode
        self.db = sqlite3.connect(self.path, isolation_level=None, timeout=30)

    def fill(self):
        run = self.db.execute
        run(f"PRAGMA journal_mode={self.mode}")
        run("CREATE TABLE account(id INTEGER PRIMARY KEY, balance INTEGER NOT NULL, pad TEXT NOT NULL)")
        run("CREATE INDEX by_balance ON account(balance)")
        run("CREATE TABLE done(n INTEGER NOT NULL)")
        run("BEGIN")
        self.db.executemany("INSERT INTO account VALUES (?, ?, ?)", ((n, START, pad()) for n in range(ACCOUNTS)))
        run("INSERT INTO done VALUES (0)")
        run("COMMIT")

    def work(self):
        synchronous = "NORMAL" if self.mode == "wal" else "FULL"
        for line in (f"synchronous={synchronous}", "cache_size=10", "wal_autocheckpoint=100"):
            self.db.execute(f"PRAGMA {line}").fetchall()

    def transfer(self, moves):
        run = self.db.execute
        run("BEGIN IMMEDIATE")
        for n, change in moves:
            run("UPDATE account SET balance = balance + ?, pad = ? WHERE id = ?", (change, pad(), n))
        run("UPDATE done SET n = n + 1")
        run("COMMIT")

    def verify(self):
        said = self.db.execute("PRAGMA integrity_check").fetchall()
        assert said == [("ok",)], said[:3]
        return [row[0] for row in self.db.execute("SELECT balance FROM account")], self.db.execute("SELECT n FROM done").fetchone()[0]


class KeyValue:
    """Those with plain keys and values: `put` and `items` are a database's own."""

    def fill(self):
        self.put([(key(n), b"%d %s" % (START, pad().encode())) for n in range(ACCOUNTS)] + [(b"n", b"0")])

    def work(self):
        self.balances = [START] * ACCOUNTS
        self.done = 0

    def transfer(self, moves):
        for n, change in moves:
            self.balances[n] += change
        self.done += 1
        changed = {n for n, _ in moves}
        self.put([(key(n), b"%d %s" % (self.balances[n], pad().encode())) for n in changed] + [(b"n", b"%d" % self.done)])

    def verify(self):
        found = dict(self.items())
        return [int(value.split()[0]) for name, value in found.items() if name != b"n"], int(found[b"n"])


class Lmdb(KeyValue):
    def __init__(self, folder, aside, writemap):
        import lmdb
        self.env = lmdb.open(os.path.join(folder, "bank"), map_size=32 << 20, writemap=writemap)

    def put(self, pairs):
        with self.env.begin(write=True) as change:
            for name, value in pairs:
                change.put(name, value)

    def items(self):
        with self.env.begin() as view:
            return [(bytes(name), bytes(value)) for name, value in view.cursor()]


class Leveldb(KeyValue):
    def __init__(self, folder, aside, new):
        import plyvel
        path = os.path.join(folder, "bank")
        self.db = plyvel.DB(path, create_if_missing=new, paranoid_checks=True, write_buffer_size=256 << 10)

    def put(self, pairs):
        with self.db.write_batch(sync=random.random() < 0.3) as batch:
            for name, value in pairs:
                batch.put(name, value)

    def items(self):
        return list(self.db.iterator(verify_checksums=True))


def start(*command):
    quiet = {} if os.environ.get("BANK_SERVER_OUTPUT") else {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, **quiet)


def until(server, answers):
    """What the server answers once it does."""
    end = time.monotonic() + 60
    while True:
        try:
            return answers()
        except (OSError, EOFError) as error:
            assert server.poll() is None, f"the server has ended: {server.poll()}"
            assert time.monotonic() < end, f"the server does not answer: {error}"
            time.sleep(0.05)


class Redis(KeyValue):
    def __init__(self, folder, aside, way, new):
        path = os.path.join(aside, "redis.sock")
        # A copy is looked at: no child is to write to it after its server has ended.
        grown, often = ("30", "1 1") if new else ("0", "")
        log = ["--save", "", "--appendonly", "yes", "--auto-aof-rewrite-percentage", grown, "--auto-aof-rewrite-min-size", "1mb"]
        ways = {
            "aof": [*log, "--appendfsync", "always"],
            "aof-everysec": [*log, "--appendfsync", "everysec"],
            "rdb": ["--save", often, "--appendonly", "no"],
        }
        self.server = start("redis-server", "--port", "0", "--unixsocket", path, "--dir", folder, *ways[way])

        def answers():
            self.socket = socket.socket(socket.AF_UNIX)
            self.socket.connect(path)
            self.replies = self.socket.makefile("rb")
            pong = self.ask([b"PING"])
            if pong != b"PONG":
                raise OSError(str(pong))
        until(self.server, answers)

    def send(self, words):
        self.socket.sendall(b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(w), w) for w in words))

    def reply(self):
        line = self.replies.readline()
        if not line:
            raise EOFError("redis closed the connection")
        kind, rest = line[:1], line[1:-2]
        if kind == b"$":
            return None if rest == b"-1" else self.replies.read(int(rest) + 2)[:-2]
        if kind == b"*":
            return [self.reply() for _ in range(int(rest))]
        return line[:-2] if kind == b"-" else rest

    def ask(self, words):
        self.send(words)
        return self.reply()

    def put(self, pairs):
        self.send([b"MULTI"])
        for name, value in pairs:
            self.send([b"SET", name, value])
        self.send([b"EXEC"])
        replies = [self.reply() for _ in range(len(pairs) + 2)]
        assert isinstance(replies[-1], list) and all(reply == b"OK" for reply in replies[-1]), replies[-1]

    def items(self):
        names = self.ask([b"KEYS", b"*"])
        return zip(names, self.ask([b"MGET", *names])) if names else []


class Etcd(KeyValue):
    """etcd: a write-ahead log, and bbolt."""

    def __init__(self, folder, aside, new):
        def free():
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                return probe.getsockname()[1]
        self.client, peer = f"http://127.0.0.1:{free()}", f"http://127.0.0.1:{free()}"
        more = [] if new else ["--force-new-cluster"]
        self.server = start("etcd", "--name", "bank", "--data-dir", os.path.join(folder, "bank"), "--snapshot-count", "500",
                            "--listen-client-urls", self.client, "--advertise-client-urls", self.client,
                            "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
                            "--initial-cluster", f"bank={peer}", "--max-txn-ops", "4000", *more)
        until(self.server, lambda: self.ask("range", {"key": self.text(b"n")}))

    @staticmethod
    def text(data):
        return base64.b64encode(data).decode()

    def ask(self, verb, what):
        request = urllib.request.Request(f"{self.client}/v3/kv/{verb}", json.dumps(what).encode())
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    def put(self, pairs):
        puts = [{"requestPut": {"key": self.text(name), "value": self.text(value)}} for name, value in pairs]
        assert self.ask("txn", {"success": puts})["succeeded"]

    def items(self):
        found = self.ask("range", {"key": self.text(b"\0"), "range_end": self.text(b"\0")}).get("kvs", [])
        return [(base64.b64decode(pair["key"]), base64.b64decode(pair["value"])) for pair in found]


class Mariadb:
    """Four clients in procedures; direct I/O, and a small buffer pool. They acknowledge nothing to us."""

    CLIENTS = 4
    PROCEDURE = f"""
        CREATE PROCEDURE bank.work(me INT) BEGIN
            DECLARE a, b, x INT;
            LOOP
                SET a = FLOOR(RAND() * {ACCOUNTS}), b = FLOOR(RAND() * {ACCOUNTS}), x = FLOOR(RAND() * 50);
                START TRANSACTION;
                UPDATE bank.account SET balance = balance - IF(id = a, x, -x), pad = MD5(RAND())
                    WHERE id IN (a, b) AND a <> b ORDER BY id;
                UPDATE bank.done SET n = n + 1 WHERE client = me;
                COMMIT;
                IF RAND() < 0.3 THEN DO SLEEP(RAND() * 0.02); END IF;
            END LOOP;
        END"""

    def __init__(self, folder, aside, new):
        data, self.socket = os.path.join(folder, "my"), os.path.join(aside, "my.sock")
        own = ["--no-defaults", "--user=root", f"--datadir={data}", f"--tmpdir={aside}"]
        if new:
            made = subprocess.run(["mariadb-install-db", *own, "--auth-root-authentication-method=normal", "--skip-test-db"],
                                  capture_output=True, text=True)
            assert made.returncode == 0, made.stdout + made.stderr
        self.server = start("mariadbd", *own, f"--socket={self.socket}", "--skip-networking", "--skip-grant-tables",
                            f"--pid-file={aside}/my.pid", "--innodb-buffer-pool-size=6M", "--innodb-log-file-size=4M",
                            "--innodb-flush-method=O_DIRECT")
        until(self.server, lambda: self.ask("SELECT 1"))

    def client(self):
        return ["mariadb", "--no-defaults", "-N", "-B", "-S", self.socket]

    def ask(self, sql):
        done = subprocess.run(self.client(), input=sql, capture_output=True, text=True)
        if done.returncode != 0:
            raise OSError(done.stderr)
        return [line.split("\t") for line in done.stdout.splitlines()]

    def fill(self):
        rows = ", ".join(f"({n}, {START}, MD5(RAND()))" for n in range(ACCOUNTS))
        self.ask(f"CREATE DATABASE bank; USE bank; CREATE TABLE bank.account(id INT PRIMARY KEY, balance INT, pad VARCHAR(200), KEY(balance)) "
                 f"ENGINE=InnoDB; CREATE TABLE bank.done(client INT PRIMARY KEY, n INT) ENGINE=InnoDB;"
                 f"INSERT INTO bank.account VALUES {rows}; INSERT INTO bank.done SELECT seq, 0 FROM seq_1_to_{self.CLIENTS};"
                 f"\nDELIMITER //\n{self.PROCEDURE} //")

    def work(self):
        for me in range(self.CLIENTS):
            start(*self.client(), "-e", f"CALL bank.work({me + 1})")
        while True:
            time.sleep(60)

    def verify(self):
        # A record that was deleted may go while the check looks at it, which it warns of: also after a real `kill -9`.
        for _ in range(20):
            said = [row for row in self.ask("CHECK TABLE bank.account, bank.done EXTENDED") if row[2:] != ["status", "OK"]]
            if not said or not all("info_bits=32" in row[3] for row in said):
                break
            time.sleep(0.2)
        assert not said, said
        return [int(row[0]) for row in self.ask("SELECT balance FROM bank.account")], int(self.ask("SELECT SUM(n) FROM bank.done")[0][0])


KINDS = {f"sqlite-{mode}": lambda folder, aside, new, mode=mode: Sqlite(folder, aside, mode)
         for mode in ("wal", "delete", "truncate", "persist")}
KINDS |= {
    "lmdb": lambda folder, aside, new: Lmdb(folder, aside, False),
    "lmdb-writemap": lambda folder, aside, new: Lmdb(folder, aside, True),
    "leveldb": Leveldb,
    "redis-aof": lambda folder, aside, new: Redis(folder, aside, "aof", new),
    "redis-aof-everysec": lambda folder, aside, new: Redis(folder, aside, "aof-everysec", new),
    "redis-rdb": lambda folder, aside, new: Redis(folder, aside, "rdb", new),
    "etcd": Etcd,
    "mariadb": Mariadb,
}


def work(kind, folder, aside):
    ack = os.open(os.path.join(folder, "ack"), os.O_CREAT | os.O_WRONLY, 0o644)
    os.pwrite(ack, struct.pack("<Q", 0), 0)
    bank = KINDS[kind](folder, aside, True)
    bank.fill()
    print("ready", flush=True)
    sys.stdin.readline()
    random.seed(1)
    bank.work()
    done = 0
    while True:
        moves = []
        for _ in range(random.choice((1, 1, 2, 4, 40))):
            amount = random.randrange(1, 50)
            moves += [(random.randrange(ACCOUNTS), amount), (random.randrange(ACCOUNTS), -amount)]
        bank.transfer(moves)
        done += 1
        os.pwrite(ack, struct.pack("<Q", done), 0)
        if random.random() < 0.3:
            time.sleep(random.random() * 0.006)


def check(kind, folder, aside):
    with open(os.path.join(folder, "ack"), "rb") as file:
        ack = struct.unpack("<Q", file.read())[0]
    bank = KINDS[kind](folder, aside, False)
    try:
        balances, done = bank.verify()
    finally:
        if hasattr(bank, "server"):
            bank.server.kill()
            bank.server.wait()
    assert len(balances) == ACCOUNTS, f"{len(balances)} accounts"
    assert sum(balances) == ACCOUNTS * START, f"the sum is {sum(balances)}"
    # A snapshot is older than what was acknowledged; while its log is being synced, Redis acknowledges what it writes later; and
    # several clients acknowledge nothing here.
    least = 0 if kind in ("redis-rdb", "redis-aof-everysec", "mariadb") else ack
    assert least <= done and (kind == "mariadb" or done <= ack + 1), f"{done} transfers, {ack} acknowledged"
    print(done)


if __name__ == "__main__":
    {"work": work, "check": check}[sys.argv[1]](sys.argv[2], sys.argv[3], sys.argv[4])
