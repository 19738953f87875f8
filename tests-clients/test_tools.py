"""The functions around curl and dig, held against servers whose answers are known."""

import http.server
import socket
import threading
import unittest

import tools


class Echo(http.server.BaseHTTPRequestHandler):
    """Answers with the method and the body of the request."""

    protocol_version = "HTTP/1.1"

    def answer(self):
        """The one answer for all methods."""
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        status = 404 if self.path == "/gone" else 200
        answer = f"{self.command} {body.decode()}".encode() if status == 200 else b""
        self.send_response(status)
        self.send_header("X-Consul-Index", "7")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_GET = do_PUT = do_DELETE = answer

    def log_message(self, format, *args):
        """Says nothing."""


class Curl(unittest.TestCase):
    """curl against a server that echoes."""

    def setUp(self):
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Echo)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def tearDown(self):
        self.server.shutdown()
        self.server.server_close()

    def test_status_headers_and_body(self):
        reply = tools.curl("PUT", f"{self.url}/x", {"Name": "ä"})
        self.assertEqual((reply.status, reply.headers["x-consul-index"]), (200, "7"))
        self.assertEqual(reply.body, 'PUT {"Name": "\\u00e4"}')
        self.assertEqual(tools.curl("DELETE", f"{self.url}/x").body, "DELETE ")
        missing = tools.curl("GET", f"{self.url}/gone")
        self.assertEqual((missing.status, missing.body), (404, ""))

    def test_a_server_that_is_not_there_fails_the_test(self):
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
        with self.assertRaises(AssertionError):
            tools.curl("GET", f"http://127.0.0.1:{port}/")


class Dig(unittest.TestCase):
    """dig against a server that has one address for every name but one, and against canned text."""

    def setUp(self):
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        threading.Thread(target=self.serve, daemon=True).start()

    def tearDown(self):
        self.socket.close()

    def serve(self):
        """Answers questions with 127.0.0.9, or with NXDOMAIN for names that begin with "gone"."""
        while True:
            try:
                packet, peer = self.socket.recvfrom(4096)
            except OSError:
                return
            question = packet[12:packet.index(b"\0", 12) + 5]
            gone = question[1:].startswith(b"gone")
            flags, answers = (b"\x85\x03", 0) if gone else (b"\x85\x00", 1)
            head = packet[:2] + flags + bytes([0, 1, 0, answers, 0, 0, 0, 0])
            record = b"" if gone else b"\xc0\x0c\0\1\0\1\0\0\0\0\0\4\x7f\0\0\x09"
            self.socket.sendto(head + question + record, peer)

    def test_an_address_and_a_name_that_is_gone(self):
        port = self.socket.getsockname()[1]
        found = tools.dig("127.0.0.1", port, "web.service.consul", "A")
        self.assertEqual((found.status, found.data("A"), found.tcp), ("NOERROR", ["127.0.0.9"], False))
        self.assertIn("aa", found.flags)
        gone = tools.dig("127.0.0.1", port, "gone.service.consul", "A")
        self.assertEqual((gone.status, gone.data("A")), ("NXDOMAIN", []))

    def test_sections_are_kept_apart(self):
        text = (
            ";; ->>HEADER<<- opcode: QUERY, status: NOERROR, id: 1\n"
            ";; flags: qr aa rd; QUERY: 1, ANSWER: 1, AUTHORITY: 0, ADDITIONAL: 2\n\n"
            ";; QUESTION SECTION:\n;web.service.consul. IN SRV\n\n"
            ";; ANSWER SECTION:\nweb.service.consul. 0 IN SRV 1 1 80 n1.node.dc1.consul.\n\n"
            ";; ADDITIONAL SECTION:\nn1.node.dc1.consul. 0 IN A 10.0.0.1\nn1.node.dc1.consul. 0 IN TXT \"a=b c\"\n\n"
            ";; SERVER: 127.0.0.1#8600(127.0.0.1) (TCP)\n"
        )
        answer = tools.Answer(text)
        self.assertEqual(answer.data("SRV"), ["1 1 80 n1.node.dc1.consul."])
        self.assertEqual(answer.data("A"), [])
        self.assertEqual(answer.data("A", "additional"), ["10.0.0.1"])
        self.assertEqual(answer.data("TXT", "additional"), ['"a=b c"'])
        self.assertTrue(answer.tcp)

    def test_no_answer_fails_the_test(self):
        with self.assertRaises(AssertionError):
            tools.Answer(";; connection timed out; no servers could be reached\n")


if __name__ == "__main__":
    unittest.main(verbosity=2)
