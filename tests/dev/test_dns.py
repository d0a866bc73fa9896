import socket

from dev.cluster import dns


def answer(query: bytes, address: str, *, code: int = 0, count: int = 1) -> bytes:
    identifier = int.from_bytes(query[:2], "big")
    header = dns.HEADER.pack(identifier, 0x8180 | code, 1, count, 0, 0)
    record = b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x05\x00\x04" + socket.inet_aton(address)
    return header + query[dns.HEADER.size :] + record * count


def test_query_is_well_formed():
    query = dns.build_query(7, "kubernetes.default.svc.")
    assert query[:2] == b"\x00\x07"
    assert query[dns.HEADER.size :] == b"\x0akubernetes\x07default\x03svc\x00\x00\x01\x00\x01"


def test_only_the_right_answer_to_this_question_counts():
    query = dns.build_query(7, "a.b")
    assert dns.find_address(answer(query, "10.0.0.1"), 7, "10.0.0.1")
    assert not dns.find_address(answer(query, "10.0.0.2"), 7, "10.0.0.1")
    assert not dns.find_address(answer(query, "10.0.0.1"), 8, "10.0.0.1")
    assert not dns.find_address(answer(query, "10.0.0.1", code=3), 7, "10.0.0.1")
    assert not dns.find_address(answer(query, "10.0.0.1", count=0), 7, "10.0.0.1")
    assert not dns.find_address(b"\x00\x07", 7, "10.0.0.1")


def test_silence_is_no_answer():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        assert not dns.resolves("127.0.0.1", "a.b", "10.0.0.1", timeout=0.05)
