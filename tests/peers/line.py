"""A long line between two machines on this one: the network namespaces NAME-1 (10.0.0.1) and NAME-2 (10.0.0.2), joined by
this process, which delays, loses and cuts packets. It prints "ready 0", and removes them when its standard input ends. Each
line there changes the line:

    rtt MS | loss PERCENT
    outage BYTES SECONDS    once this many bytes have passed, nothing passes for this long
    mtu BYTES LIMIT         once this many bytes have passed, longer packets come back as "fragmentation needed" (RFC 1191)

and is answered by the number of packets that came back.

Needs root, iproute2 and /dev/net/tun.
"""

import ctypes
import fcntl
import heapq
import itertools
import os
import random
import select
import struct
import subprocess
import sys
import time

TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000


def ip(*words):
    subprocess.run(("ip", *words), check=True)


def enter(namespace):
    if ctypes.CDLL(None, use_errno=True).setns(namespace, 0):
        raise OSError(ctypes.get_errno(), "setns")


def end_of_line(machine, number):
    """The end of the line in a machine: what is read and written there are IP packets."""
    here = os.open("/proc/self/ns/net", os.O_RDONLY)
    enter(os.open(f"/run/netns/{machine}", os.O_RDONLY))
    end = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(end, TUNSETIFF, struct.pack("16sH", b"line", IFF_TUN | IFF_NO_PI))
    enter(here)
    ip("-netns", machine, "link", "set", "lo", "up")
    ip("-netns", machine, "address", "add", f"10.0.0.{number}/24", "dev", "line")
    ip("-netns", machine, "link", "set", "line", "mtu", "1500", "txqueuelen", "10000", "up")
    return end


def checksum(data):
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total & 0xFFFF) + (total >> 16)
    return ~(total + (total >> 16)) & 0xFFFF


def fragmentation_needed(packet, limit):
    """What a router answers to a packet that is too long for the way on."""
    message = struct.pack("!BBHHH", 3, 4, 0, 0, limit) + packet[:28]
    message = message[:2] + struct.pack("!H", checksum(message)) + message[4:]
    header = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(message), 0, 0, 64, 1, 0, packet[16:20], packet[12:16])
    return header[:10] + struct.pack("!H", checksum(header)) + header[12:] + message


class Line:
    def __init__(self):
        self.rtt, self.loss, self.passed, self.refused = 0.0, 0.0, 0, 0
        self.outage = self.mtu = None
        self.dark_until = 0.0

    def change(self, words):
        what, *values = words.split()
        if what == "rtt":
            self.rtt = float(values[0]) / 1000
        elif what == "loss":
            self.loss = float(values[0]) / 100
        elif what == "outage":
            self.outage = (int(values[0]), float(values[1]))
        elif what == "mtu":
            self.mtu = (int(values[0]), int(values[1]))

    def passes(self, packet, sender, now):
        self.passed += len(packet)
        if self.outage and self.passed >= self.outage[0]:
            self.dark_until, self.outage = now + self.outage[1], None
        if now < self.dark_until or random.random() < self.loss:
            return False
        if self.mtu and self.passed >= self.mtu[0] and len(packet) > self.mtu[1]:
            os.write(sender, fragmentation_needed(packet, self.mtu[1]))
            self.refused += 1
            return False
        return True


def relay(ends):
    line, on_the_way, numbers = Line(), [], itertools.count()
    control = ""
    other = dict(zip(ends, reversed(ends)))
    print("ready", line.refused, flush=True)
    while True:
        now = time.monotonic()
        wait = max(0.0, on_the_way[0][0] - now) if on_the_way else None
        for ready in select.select([*ends, 0], [], [], wait)[0]:
            if ready == 0:
                arrived = os.read(0, 4096).decode()
                if not arrived:
                    return
                *lines, control = (control + arrived).split("\n")
                for words in lines:
                    line.change(words)
                    print("ready", line.refused, flush=True)
                continue
            try:
                packet, now = os.read(ready, 65536), time.monotonic()
            except BlockingIOError:
                continue
            if line.passes(packet, ready, now):
                heapq.heappush(on_the_way, (now + line.rtt / 2, next(numbers), other[ready], packet))
        while on_the_way and on_the_way[0][0] <= time.monotonic():
            _, _, end, packet = heapq.heappop(on_the_way)
            try:
                os.write(end, packet)
            except OSError:
                pass  # A machine whose buffer is full loses it, too.


machines = [f"{sys.argv[1]}-{number}" for number in (1, 2)]
try:
    for machine in machines:
        ip("netns", "add", machine)
    relay([end_of_line(machine, number) for number, machine in enumerate(machines, 1)])
finally:
    for machine in machines:
        subprocess.run(("ip", "netns", "delete", machine), check=False)
