"""streams.py - what programs of the tests do with connections. They find this file by PYTHONPATH."""


def exact(s, n):
    """n bytes, or fewer where the stream ends before."""
    got = b""
    while len(got) < n:
        part = s.recv(n - len(got))
        if not part:
            break
        got += part
    return got
