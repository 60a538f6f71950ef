"""A server of event streams that makes a mistake on purpose: PORT CONTROL TEXT FAULT."""

import itertools
import json
import socket
import sys
import threading

PORT, CONTROL, TEXT, FAULT = sys.argv[1:]
HEADER = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n:ok\n\n"

clients: list[socket.socket] = []


def frame(number: int) -> str:
    return f"data: {json.dumps({'n': number, 'text': TEXT})}\n\n"


def told(first: int, count: int) -> list[str]:
    """The frames of a burst, one of which is treated as FAULT says."""
    frames = [frame(number) for number in range(first, first + count)]
    if FAULT == "drop":
        del frames[1]
    elif FAULT == "drop the last":
        del frames[-1]
    elif FAULT == "double":
        frames.insert(1, frames[1])
    elif FAULT == "double late":
        frames.append(frames[0])
    elif FAULT == "reorder":
        frames[1], frames[2] = frames[2], frames[1]
    elif FAULT == "cut":
        frames[1] = frames[1][:40] + "\n\n"
    return frames


def publish(control: socket.socket) -> None:
    first = 1
    for line in control.makefile():
        count = int(line.removeprefix("publish "))
        # One of the clients is the unlucky one.
        unlucky = "".join(told(first, count)).encode()
        for client in clients[1:]:
            client.sendall("".join(map(frame, range(first, first + count))).encode())
        clients[0].sendall(unlucky)
        if FAULT == "hang up":
            clients.pop(0).close()
        first += count


with socket.create_server(("127.0.0.1", int(CONTROL))) as controls:
    threading.Thread(
        target=lambda: [publish(controls.accept()[0]) for _ in itertools.count()], daemon=True
    ).start()
    with socket.create_server(("127.0.0.1", int(PORT)), backlog=100) as server:
        while True:
            client, _ = server.accept()
            # Who only looks whether there is a server asks nothing.
            if client.recv(4096):
                client.sendall(HEADER)
                clients.append(client)
