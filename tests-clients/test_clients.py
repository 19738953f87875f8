"""Clients that we did not write, py-consul, curl and dig, do the same things to one cluster and must see the same.

Run: `python test_clients.py` with py-consul installed, curl and dig on the PATH, and TRIBUNE_BIN naming the binary.
Expected values come from Consul's documentation and from what these clients rely on.
"""

import os
import pathlib
import signal
import socket
import threading
import time
import unittest

import consul

from cluster import DNS_PORT, HTTP_PORT, Cluster
from tools import curl, dig, soon

CLUSTER = None


def setUpModule():
    """Starts the one cluster of all tests."""
    global CLUSTER
    root = pathlib.Path(__file__).resolve().parent.parent
    binary = pathlib.Path(os.environ.get("TRIBUNE_BIN", root / "target/debug/tribune")).resolve()
    if not binary.is_file():
        raise RuntimeError(f"{binary} is not there: build it with `cargo build -p tribune`, or set TRIBUNE_BIN")
    CLUSTER = Cluster(binary)
    signal.signal(signal.SIGTERM, give_up)
    try:
        CLUSTER.start()
    except BaseException:
        CLUSTER.stop(keep=True)
        raise


def give_up(_signal, _frame):
    """Whoever ends this program ends its servers too."""
    CLUSTER.stop(keep=True)
    os._exit(1)


def tearDownModule():
    """Stops the cluster; what it left is kept when a test failed."""
    CLUSTER.stop(keep=ClientTest.failed)


class ClientTest(unittest.TestCase):
    """What every test has: the three servers, and the clients for each of them."""

    failed = False

    def run(self, result=None):
        """Notes failures, so that the logs are kept."""
        result = super().run(result)
        if result is not None and not result.wasSuccessful():
            ClientTest.failed = True
        return result

    def setUp(self):
        self.servers = CLUSTER.servers
        self.consuls = [consul.Consul(host=server.address, port=HTTP_PORT) for server in self.servers]

    def url(self, server, path):
        """The URL of a path on the server number `server`."""
        return f"http://{self.servers[server].address}:{HTTP_PORT}{path}"

    def curl(self, server, method, path, body=None):
        """A request by curl to the server number `server`."""
        return curl(method, self.url(server, path), body)

    def dig(self, server, name, kind, *options):
        """A question by dig to the server number `server`."""
        return dig(self.servers[server].address, DNS_PORT, name, kind, *options)


class Members(ClientTest):
    """Who is there."""

    def test_py_consul_sees_the_three_servers(self):
        for client, server in zip(self.consuls, self.servers):
            self.assertEqual(client.agent.self()["Config"]["NodeName"], server.name)
            self.assertEqual(client.agent.self()["Config"]["Datacenter"], "dc1")
            members = client.agent.members()
            self.assertEqual(sorted(member["Name"] for member in members), ["s1", "s2", "s3"])
            self.assertEqual({member["Status"] for member in members}, {1})

    def test_all_agree_on_leader_and_peers(self):
        leaders = {client.status.leader() for client in self.consuls}
        self.assertEqual(len(leaders), 1)
        peers = sorted(f"{server.address}:8300" for server in self.servers)
        for number, client in enumerate(self.consuls):
            self.assertEqual(sorted(client.status.peers()), peers)
            self.assertEqual(sorted(self.curl(number, "GET", "/v1/status/peers").json()), peers)
        self.assertIn(leaders.pop(), peers)

    def test_nodes_are_in_the_catalog_and_in_dns(self):
        def check():
            _, nodes = self.consuls[0].catalog.nodes()
            found = {node["Node"]: node["Address"] for node in nodes}
            for server in self.servers:
                self.assertEqual(found[server.name], server.address)
                self.assertEqual(self.dig(1, f"{server.name}.node.consul", "A").data("A"), [server.address])
        soon(check)

    def test_servers_are_the_service_consul(self):
        addresses = sorted(server.address for server in self.servers)

        def check():
            _, instances = self.consuls[0].health.service("consul", passing=True)
            self.assertEqual(sorted(instance["Node"]["Address"] for instance in instances), addresses)
            self.assertEqual({instance["Service"]["Port"] for instance in instances}, {8300})
            self.assertEqual(self.dig(2, "consul.service.consul", "A").data("A"), addresses)
        soon(check)

    def test_serf_health_is_passing_everywhere(self):
        def check():
            _, checks = self.consuls[0].health.state("any")
            alive = {row["Node"]: row["Status"] for row in checks if row["CheckID"] == "serfHealth"}
            self.assertEqual({name: alive[name] for name in ("s1", "s2", "s3")}, dict.fromkeys(("s1", "s2", "s3"), "passing"))
        soon(check)


class Registrations(ClientTest):
    """Services come, change health, and go; each client sees it."""

    def expect_service(self, name, address, port, tags):
        """All three clients, each at another server, see exactly one passing instance."""
        def check():
            _, instances = self.consuls[0].health.service(name, passing=True)
            self.assertEqual(len(instances), 1)
            service = instances[0]["Service"]
            self.assertEqual((service["Address"], service["Port"], service["Tags"]), (address, port, tags))

            rows = self.curl(1, "GET", f"/v1/catalog/service/{name}").json()
            self.assertEqual([(row["ServiceAddress"], row["ServicePort"], row["ServiceTags"]) for row in rows], [(address, port, tags)])

            self.assertEqual(self.dig(2, f"{name}.service.consul", "A").data("A"), [address])
            srv = self.dig(2, f"{name}.service.consul", "SRV")
            self.assertEqual([data.split()[:3] for data in srv.data("SRV")], [["1", "1", str(port)]])
            self.assertEqual(srv.data("A", "additional"), [address])
        soon(check)

    def expect_gone(self, name):
        """No client sees a passing instance."""
        def check():
            self.assertEqual(self.consuls[0].health.service(name, passing=True)[1], [])
            self.assertEqual(self.curl(1, "GET", f"/v1/health/service/{name}?passing").json(), [])
            self.assertEqual(self.dig(2, f"{name}.service.consul", "A").status, "NXDOMAIN")
        soon(check)

    def test_registered_by_py_consul_with_a_ttl_check(self):
        agent = self.consuls[0].agent
        registered = agent.service.register(
            "web", service_id="web-1", address="127.20.0.9", port=8080, tags=["v1", "blue"], meta={"team": "a"},
            check=consul.Check.ttl("300s"),
        )
        self.assertTrue(registered)
        # A TTL check is critical until somebody says otherwise.
        self.assertEqual(agent.checks()["service:web-1"]["Status"], "critical")
        self.expect_gone("web")
        self.assertTrue(agent.check.ttl_pass("service:web-1", notes="all is well"))
        self.expect_service("web", "127.20.0.9", 8080, ["v1", "blue"])

        services = agent.services()
        self.assertEqual((services["web-1"]["Service"], services["web-1"]["Port"], services["web-1"]["Meta"]), ("web", 8080, {"team": "a"}))
        _, checks = self.consuls[1].health.checks("web")
        self.assertEqual([(row["CheckID"], row["Status"], row["Output"]) for row in checks], [("service:web-1", "passing", "all is well")])
        _, names = self.consuls[2].catalog.services()
        self.assertEqual(sorted(names["web"]), ["blue", "v1"])
        _, node = self.consuls[1].catalog.node("s1")
        self.assertEqual(node["Services"]["web-1"]["Service"], "web")

        self.assertTrue(agent.check.ttl_fail("service:web-1"))
        self.expect_gone("web")
        self.assertTrue(agent.service.deregister("web-1"))
        soon(lambda: self.assertEqual(self.consuls[1].catalog.service("web")[1], []))

    def test_registered_by_curl_with_a_tcp_check(self):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            target = f"127.0.0.1:{listener.getsockname()[1]}"
            body = {
                "Name": "shop", "ID": "shop-1", "Address": "127.20.0.10", "Port": 9090, "Tags": ["v2"],
                "Check": {"TCP": target, "Interval": "1s", "Timeout": "1s"},
            }
            reply = self.curl(1, "PUT", "/v1/agent/service/register", body)
            self.assertEqual(reply.status, 200, reply.body)
            self.expect_service("shop", "127.20.0.10", 9090, ["v2"])
        # Nobody listens any more.
        self.expect_gone("shop")
        self.assertEqual(self.curl(1, "PUT", "/v1/agent/service/deregister/shop-1").status, 200)
        soon(lambda: self.assertEqual(self.curl(0, "GET", "/v1/catalog/service/shop").json(), []))

    def test_registered_in_the_catalog_from_outside(self):
        body = {
            "Node": "outside", "Address": "127.20.0.11", "NodeMeta": {"rack": "a1"},
            "Service": {"Service": "db", "ID": "db-1", "Port": 5432, "Tags": ["primary"]},
        }
        reply = self.curl(2, "PUT", "/v1/catalog/register", body)
        self.assertEqual((reply.status, reply.body.strip()), (200, "true"))

        def check():
            _, rows = self.consuls[0].catalog.service("db", tag="primary")
            self.assertEqual([(row["Node"], row["Address"], row["ServicePort"]) for row in rows], [("outside", "127.20.0.11", 5432)])
            self.assertEqual(self.dig(1, "primary.db.service.consul", "A").data("A"), ["127.20.0.11"])
            self.assertEqual(self.dig(1, "outside.node.consul", "TXT").data("TXT"), ['"rack=a1"'])
        soon(check)
        self.assertEqual(self.consuls[0].catalog.service("db", tag="replica")[1], [])

        self.assertTrue(self.consuls[1].catalog.deregister("outside"))
        soon(lambda: self.assertEqual(self.dig(0, "outside.node.consul", "A").status, "NXDOMAIN"))

    def test_a_blocking_query_wakes_for_a_registration(self):
        index, before = self.consuls[1].health.service("late")
        self.assertEqual(before, [])
        woken = []
        waiter = threading.Thread(target=lambda: woken.append(self.consuls[1].health.service("late", index=index, wait="60s")))
        waiter.start()
        self.curl(0, "PUT", "/v1/agent/service/register", {"Name": "late", "Port": 1})
        waiter.join(60)
        self.assertEqual(len(woken), 1, "the query did not return")
        index_after, after = woken[0]
        self.assertGreater(int(index_after), int(index))
        self.assertEqual([row["Service"]["Service"] for row in after], ["late"])
        self.assertTrue(self.consuls[0].agent.service.deregister("late"))

    def test_a_filter_means_the_same_to_both(self):
        for number in (1, 2, 3):
            body = {"Name": "many", "ID": f"many-{number}", "Port": 7000 + number, "Meta": {"n": str(number)}}
            self.assertEqual(self.curl(0, "PUT", "/v1/agent/service/register", body).status, 200)

        def check():
            _, rows = self.consuls[1].health.service("many", filter_expr='Service.Meta.n != "2"')
            self.assertEqual(sorted(row["Service"]["Port"] for row in rows), [7001, 7003])
            rows = self.curl(2, "GET", "/v1/catalog/service/many?filter=ServicePort==7002").json()
            self.assertEqual([row["ServiceID"] for row in rows], ["many-2"])
        soon(check)
        for number in (1, 2, 3):
            self.assertTrue(self.consuls[0].agent.service.deregister(f"many-{number}"))


class KeyValue(ClientTest):
    """The KV store, by py-consul and by curl."""

    def test_py_consul_writes_and_curl_reads(self):
        self.assertTrue(self.consuls[0].kv.put("app/name", "Tribune", flags=42))
        reply = self.curl(1, "GET", "/v1/kv/app/name?raw")
        self.assertEqual((reply.status, reply.body), (200, "Tribune"))
        row = self.curl(2, "GET", "/v1/kv/app/name").json()[0]
        self.assertEqual((row["Key"], row["Value"], row["Flags"], row["LockIndex"]), ("app/name", "VHJpYnVuZQ==", 42, 0))

    def test_curl_writes_and_py_consul_reads(self):
        self.assertEqual(self.curl(0, "PUT", "/v1/kv/app/other", "ä ö").body.strip(), "true")
        _, row = self.consuls[1].kv.get("app/other")
        self.assertEqual(row["Value"].decode(), "ä ö")
        self.assertEqual(row["CreateIndex"], row["ModifyIndex"])

    def test_a_miss_is_404_without_a_body_and_with_an_index(self):
        index, row = self.consuls[0].kv.get("nobody/wrote/this")
        self.assertIsNone(row)
        self.assertGreaterEqual(int(index), 1)
        reply = self.curl(1, "GET", "/v1/kv/nobody/wrote/this")
        self.assertEqual((reply.status, reply.body), (404, ""))
        self.assertGreaterEqual(int(reply.headers["x-consul-index"]), 1)

    def test_compare_and_set(self):
        store = self.consuls[0].kv
        store.delete("cas", recurse=True)
        self.assertTrue(store.put("cas/a", "1", cas=0))
        self.assertFalse(self.consuls[1].kv.put("cas/a", "2", cas=0))
        _, row = self.consuls[2].kv.get("cas/a", consistency="consistent")
        self.assertTrue(self.consuls[1].kv.put("cas/a", "2", cas=row["ModifyIndex"]))
        self.assertEqual(self.curl(2, "PUT", f"/v1/kv/cas/a?cas={row['ModifyIndex']}", "3").body.strip(), "false")
        self.assertFalse(store.delete("cas/a", cas=row["ModifyIndex"]))
        _, row = store.get("cas/a", consistency="consistent")
        self.assertEqual(row["Value"], b"2")
        self.assertTrue(store.delete("cas/a", cas=row["ModifyIndex"]))
        self.assertIsNone(store.get("cas/a", consistency="consistent")[1])

    def test_recursion_and_keys(self):
        store = self.consuls[0].kv
        for key in ("tree/a", "tree/b/1", "tree/b/2", "treehouse"):
            self.assertTrue(store.put(key, key))
        _, rows = store.get("tree/", recurse=True)
        self.assertEqual([(row["Key"], row["Value"].decode()) for row in rows], [(k, k) for k in ("tree/a", "tree/b/1", "tree/b/2")])
        _, keys = self.consuls[1].kv.get("tree/", keys=True, separator="/")
        self.assertEqual(keys, ["tree/a", "tree/b/"])
        self.assertEqual(self.curl(2, "GET", "/v1/kv/tree/?keys").json(), ["tree/a", "tree/b/1", "tree/b/2"])
        self.assertEqual(self.curl(2, "DELETE", "/v1/kv/tree/?recurse").body.strip(), "true")
        self.assertIsNone(store.get("tree/", recurse=True, consistency="consistent")[1])
        self.assertIsNotNone(store.get("treehouse", consistency="consistent")[1])
        self.assertTrue(store.delete("treehouse"))

    def test_a_blocking_query_wakes_for_a_write_and_not_before(self):
        store = self.consuls[0].kv
        store.put("watched", "before")
        index, _ = store.get("watched")
        woken = []
        waiter = threading.Thread(target=lambda: woken.append(store.get("watched", index=index, wait="60s")))
        waiter.start()
        # An unrelated write wakes nobody.
        self.consuls[1].kv.put("unrelated", "x")
        waiter.join(1)
        self.assertTrue(waiter.is_alive(), f"it returned too early: {woken}")
        self.curl(2, "PUT", "/v1/kv/watched", "after")
        waiter.join(60)
        self.assertEqual([row["Value"] for _, row in woken], [b"after"])

    def test_a_blocking_query_ends_with_its_wait(self):
        self.curl(0, "PUT", "/v1/kv/quiet", "x")
        index = self.curl(0, "GET", "/v1/kv/quiet").headers["x-consul-index"]
        started = time.monotonic()
        reply = self.curl(0, "GET", f"/v1/kv/quiet?index={index}&wait=1s")
        self.assertEqual(reply.status, 200)
        self.assertEqual(reply.headers["x-consul-index"], index)
        self.assertGreaterEqual(time.monotonic() - started, 1)

    def test_what_one_server_acknowledged_all_servers_read_consistently(self):
        for number in range(30):
            key, value = f"spread/{number}", str(number)
            self.assertTrue(self.consuls[number % 3].kv.put(key, value))
            _, row = self.consuls[(number + 1) % 3].kv.get(key, consistency="consistent")
            self.assertEqual(row["Value"].decode(), value)


class Dns(ClientTest):
    """What dig sees besides registrations."""

    def test_an_unknown_name_is_nxdomain_with_a_soa(self):
        for name in ("nowhere.service.consul", "nobody.node.consul", "consul.service.dc9.consul", "nonsense.consul"):
            answer = self.dig(0, name, "A")
            self.assertEqual((answer.status, answer.data("A")), ("NXDOMAIN", []), name)
            self.assertEqual(len(answer.data("SOA", "authority")), 1, name)
            self.assertIn("aa", answer.flags)

    def test_a_known_name_without_that_type_is_nodata_with_a_soa(self):
        def check():
            answer = self.dig(0, "consul.service.consul", "AAAA")
            self.assertEqual((answer.status, answer.data("AAAA")), ("NOERROR", []))
            self.assertEqual(len(answer.data("SOA", "authority")), 1)
        soon(check)

    def test_tcp_answers_as_udp_does(self):
        def check():
            udp = self.dig(1, "consul.service.consul", "SRV")
            tcp = self.dig(1, "consul.service.consul", "SRV", "+tcp")
            self.assertTrue(tcp.tcp and not udp.tcp)
            self.assertEqual(len(tcp.data("SRV")), 3)
            self.assertEqual(tcp.data("SRV"), udp.data("SRV"))
            self.assertEqual(tcp.data("A", "additional"), udp.data("A", "additional"))
        soon(check)

    def test_names_have_no_case_and_may_name_the_datacenter(self):
        def check():
            plain = self.dig(0, "consul.service.consul", "A").data("A")
            self.assertEqual(len(plain), 3)
            self.assertEqual(self.dig(0, "CONSUL.Service.CONSUL", "A").data("A"), plain)
            self.assertEqual(self.dig(0, "consul.service.dc1.consul", "A").data("A"), plain)
            self.assertEqual([row.split()[2] for row in self.dig(0, "_consul._tcp.service.consul", "SRV").data("SRV")], ["8300"] * 3)
        soon(check)

    def test_the_zone_has_a_soa_and_name_servers(self):
        soa = self.dig(0, "consul", "SOA").data("SOA")
        self.assertEqual(len(soa), 1)
        self.assertTrue(soa[0].startswith("ns.consul. hostmaster.consul. "), soa)
        soon(lambda: self.assertGreaterEqual(len(self.dig(0, "consul", "NS").data("NS")), 1))


class Mesh(ClientTest):
    """Config entries, intentions and certificates."""

    def test_config_entries(self):
        config = self.consuls[0].config
        self.assertTrue(config.set("service-defaults", "shop", {"Protocol": "http"}))
        entry = self.consuls[1].config.get("service-defaults", "shop")
        self.assertEqual((entry["Kind"], entry["Name"], entry["Protocol"]), ("service-defaults", "shop", "http"))
        self.assertIn("shop", [row["Name"] for row in self.consuls[2].config.list("service-defaults")])
        self.assertFalse(config.set("service-defaults", "shop", {"Protocol": "tcp"}, cas=1))
        self.assertTrue(config.set("service-defaults", "shop", {"Protocol": "grpc"}, cas=entry["ModifyIndex"]))
        self.assertEqual(self.curl(1, "GET", "/v1/config/service-defaults/shop").json()["Protocol"], "grpc")
        # A splitter needs a protocol of layer 7, and weights of 100 in all.
        for kind, body in (
            ("service-splitter", {"Splits": [{"Weight": 60}]}),
            ("service-splitter", {"Splits": [{"Weight": 100, "ServiceSubset": "nowhere"}]}),
        ):
            with self.assertRaises(consul.ConsulException, msg=f"{kind} {body}"):
                config.set(kind, "shop", body)
        self.assertTrue(config.delete("service-defaults", "shop"))
        self.assertEqual(self.curl(2, "GET", "/v1/config/service-defaults/shop").status, 404)

    def test_intentions(self):
        intentions = self.consuls[0].connect.intentions
        self.assertTrue(intentions.check("web", "db"), "nothing is denied yet")
        self.assertTrue(intentions.upsert("web", "db", action="deny", description="not this one"))
        self.assertTrue(intentions.upsert("*", "db", action="allow"))
        self.assertFalse(self.consuls[1].connect.intentions.check("web", "db"))
        self.assertTrue(self.consuls[2].connect.intentions.check("app", "db"))
        read = self.consuls[1].connect.intentions.read("web", "db")
        self.assertEqual((read["SourceName"], read["DestinationName"], read["Action"]), ("web", "db", "deny"))
        # The most exact comes first.
        matching = self.consuls[2].connect.intentions.match("destination", "db")["db"]
        self.assertEqual([row["SourceName"] for row in matching], ["web", "*"])
        self.assertGreater(matching[0]["Precedence"], matching[1]["Precedence"])
        for source in ("web", "*"):
            self.assertTrue(intentions.delete(source, "db"))
        self.assertEqual(self.curl(1, "GET", "/v1/connect/intentions/exact?source=web&destination=db").status, 404)
        self.assertTrue(self.consuls[2].connect.intentions.check("web", "db"))

    def test_roots_and_leaves(self):
        roots = self.consuls[0].connect.ca.roots()
        for client in self.consuls:
            self.assertEqual(client.agent.connect.ca.roots()["TrustDomain"], roots["TrustDomain"])
        active = [root for root in roots["Roots"] if root["Active"]]
        self.assertEqual([root["ID"] for root in active], [roots["ActiveRootID"]])
        # Unlike Consul, Tribune gives a node no certificate of a service that it does not run.
        self.assertEqual(self.curl(1, "GET", "/v1/agent/connect/ca/leaf/mint").status, 403)
        self.assertTrue(self.consuls[1].agent.service.register("mint", port=1))
        soon(lambda: self.assertEqual(self.curl(1, "GET", "/v1/agent/connect/ca/leaf/mint").status, 200))
        leaf = self.consuls[1].agent.connect.ca.leaf("mint")
        self.assertEqual(leaf["ServiceURI"], f"spiffe://{roots['TrustDomain']}/ns/default/dc/dc1/svc/mint")
        self.assertIn("BEGIN CERTIFICATE", leaf["CertPEM"])
        self.assertIn("PRIVATE KEY", leaf["PrivateKeyPEM"])
        # The same leaf for whoever asks again.
        self.assertEqual(self.consuls[1].agent.connect.ca.leaf("mint")["SerialNumber"], leaf["SerialNumber"])
        asked = {"Target": "db", "ClientCertURI": leaf["ServiceURI"], "ClientCertSerial": leaf["SerialNumber"]}
        answer = self.curl(1, "POST", "/v1/agent/connect/authorize", asked).json()
        self.assertTrue(answer["Authorized"], answer)
        self.assertTrue(self.consuls[1].agent.service.deregister("mint"))

    def test_a_sidecar_is_registered_with_its_service(self):
        body = {"Name": "till", "Port": 7070, "Connect": {"SidecarService": {}}}
        self.assertEqual(self.curl(2, "PUT", "/v1/agent/service/register", body).status, 200)

        def check():
            _, rows = self.consuls[0].catalog.connect("till")
            self.assertEqual([(row["ServiceID"], row["ServiceKind"]) for row in rows], [("till-sidecar-proxy", "connect-proxy")])
            self.assertEqual(rows[0]["ServiceProxy"]["DestinationServiceName"], "till")
            self.assertGreaterEqual(rows[0]["ServicePort"], 21000)
        soon(check)
        self.assertEqual(self.curl(2, "PUT", "/v1/agent/service/deregister/till").status, 200)
        soon(lambda: self.assertEqual(self.consuls[0].catalog.connect("till")[1], []))


class Maintenance(ClientTest):
    """An instance or a node is taken out of the answers by its operator, and put back."""

    def test_a_service_in_maintenance_is_not_found(self):
        agent = self.consuls[0].agent
        self.assertTrue(agent.service.register("press", address="127.20.0.12", port=1))
        soon(lambda: self.assertEqual(self.dig(1, "press.service.consul", "A").data("A"), ["127.20.0.12"]))
        self.assertTrue(agent.service.maintenance("press", "true", "oiling"))

        def check_out():
            _, rows = self.consuls[2].health.service("press")
            notes = {row["CheckID"]: (row["Status"], row["Notes"]) for row in rows[0]["Checks"]}
            self.assertEqual(notes["_service_maintenance:press"], ("critical", "oiling"))
            self.assertEqual(self.dig(1, "press.service.consul", "A").status, "NXDOMAIN")
        soon(check_out)
        self.assertTrue(agent.service.maintenance("press", "false"))
        soon(lambda: self.assertEqual(self.dig(1, "press.service.consul", "A").data("A"), ["127.20.0.12"]))
        self.assertTrue(agent.service.deregister("press"))

    def test_a_node_in_maintenance_is_not_found(self):
        agent = self.consuls[1].agent
        self.assertTrue(agent.service.register("lathe", address="127.20.0.13", port=1))
        self.assertTrue(agent.maintenance(True, "moving"))
        soon(lambda: self.assertEqual(self.consuls[0].health.service("lathe", passing=True)[1], []))
        self.assertEqual(agent.checks()["_node_maintenance"]["Status"], "critical")
        self.assertTrue(agent.maintenance(False))
        soon(lambda: self.assertEqual(len(self.consuls[0].health.service("lathe", passing=True)[1]), 1))
        self.assertTrue(agent.service.deregister("lathe"))


class Operations(ClientTest):
    """What an operator asks."""

    def test_raft_and_its_health(self):
        servers = self.consuls[0].operator.raft_config()["Servers"]
        self.assertEqual(sorted(server["Node"] for server in servers), ["s1", "s2", "s3"])
        self.assertEqual([server["Leader"] for server in servers].count(True), 1)
        self.assertTrue(all(server["Voter"] for server in servers))
        soon(lambda: self.assertTrue(self.consuls[1].operator.autopilot_health()["Healthy"]))

    def test_datacenters_and_metrics(self):
        self.assertEqual(self.consuls[0].catalog.datacenters(), ["dc1"])
        self.assertIn("Gauges", self.consuls[0].agent.metrics())


class Conventions(ClientTest):
    """Headers, codes and texts that clients match on."""

    def test_reads_tell_their_index_leader_and_contact(self):
        for number in range(3):
            reply = self.curl(number, "GET", "/v1/catalog/nodes")
            self.assertEqual(reply.status, 200)
            self.assertTrue(reply.headers["content-type"].startswith("application/json"))
            self.assertGreaterEqual(int(reply.headers["x-consul-index"]), 1)
            self.assertEqual(reply.headers["x-consul-knownleader"], "true")
            self.assertGreaterEqual(int(reply.headers["x-consul-lastcontact"]), 0)

    def test_bad_requests_are_told_what_is_wrong(self):
        cases = [
            ("/v1/catalog/nodes?stale&consistent", 400, "Cannot specify ?stale with ?consistent, conflicting semantics."),
            ("/v1/catalog/nodes?index=x", 400, "Invalid index"),
            ("/v1/catalog/nodes?index=1&wait=x", 400, "Invalid wait time"),
            ("/v1/catalog/nodes?dc=nowhere", 500, "No path to datacenter"),
            ("/v1/nonsense", 404, "Invalid URL path: not a recognized HTTP API endpoint"),
        ]
        for path, status, text in cases:
            reply = self.curl(0, "GET", path)
            self.assertEqual(reply.status, status, path)
            self.assertIn(text, reply.body, path)

    def test_bad_bodies_change_nothing(self):
        before = self.consuls[0].agent.services()
        for body in ("{", "[]", '{"Name": 7}', '{"Name": "x", "Port": "eighty"}', "{}"):
            self.assertEqual(self.curl(0, "PUT", "/v1/agent/service/register", body).status, 400, body)
        self.assertEqual(self.consuls[0].agent.services(), before)

    def test_a_wrong_method_is_405_and_says_which_are_right(self):
        reply = self.curl(0, "DELETE", "/v1/catalog/nodes")
        self.assertEqual(reply.status, 405)
        self.assertIn("GET", reply.headers["allow"])

    def test_an_unknown_check_is_404(self):
        reply = self.curl(0, "PUT", "/v1/agent/check/pass/no-such-check")
        self.assertEqual(reply.status, 404)
        self.assertIn('Unknown check ID "no-such-check"', reply.body)


class Locks(ClientTest):
    """Sessions, locks and transactions."""

    def session(self, server, **settings):
        """A session that depends on no check, so that only the test ends it."""
        return self.consuls[server].session.create(checks=[], **settings)

    def test_a_session_is_found_until_it_is_destroyed(self):
        found = self.consuls[0].session.create(name="mine", ttl=20, behavior="delete", lock_delay=5)
        _, info = self.consuls[1].session.info(found)
        self.assertEqual((info["ID"], info["Node"], info["Name"], info["TTL"]), (found, "s1", "mine", "20s"))
        self.assertEqual((info["LockDelay"], info["Behavior"]), (5_000_000_000, "delete"))
        self.assertEqual(info["NodeChecks"], ["serfHealth"])
        self.assertIn(found, [row["ID"] for row in self.consuls[2].session.list()[1]])
        self.assertIn(found, [row["ID"] for row in self.consuls[2].session.node("s1")[1]])
        self.assertEqual(self.consuls[2].session.renew(found)["ID"], found)
        self.assertTrue(self.consuls[1].session.destroy(found))
        self.assertFalse(self.consuls[0].session.info(found)[1])
        with self.assertRaises(consul.NotFound):
            self.consuls[0].session.renew(found)

    def test_two_contend_for_a_lock(self):
        first, second = self.session(0, lock_delay=2), self.session(1, lock_delay=2)
        self.assertTrue(self.consuls[0].kv.put("locks/lead", "first", acquire=first))
        self.assertFalse(self.consuls[1].kv.put("locks/lead", "second", acquire=second))
        self.assertTrue(self.consuls[0].kv.put("locks/lead", "again", acquire=first))
        _, entry = self.consuls[2].kv.get("locks/lead")
        self.assertEqual((entry["Session"], entry["LockIndex"], entry["Value"]), (first, 1, b"again"))

        # The holder dies: nobody may have the lock before the delay is over, then the other has it.
        ended = time.monotonic()
        self.assertTrue(self.consuls[0].session.destroy(first))
        _, entry = self.consuls[2].kv.get("locks/lead")
        self.assertNotIn("Session", entry)
        self.assertFalse(self.consuls[1].kv.put("locks/lead", "second", acquire=second))
        soon(lambda: self.assertTrue(self.consuls[1].kv.put("locks/lead", "second", acquire=second)))
        self.assertGreaterEqual(time.monotonic() - ended, 2)
        self.assertEqual(self.consuls[2].kv.get("locks/lead")[1]["LockIndex"], 2)

        # Who gives the lock back leaves no delay.
        third = self.session(2, lock_delay=2)
        self.assertFalse(self.consuls[2].kv.put("locks/lead", "", release=third))
        self.assertTrue(self.consuls[1].kv.put("locks/lead", "free", release=second))
        self.assertTrue(self.consuls[2].kv.put("locks/lead", "third", acquire=third))
        for held in (second, third):
            self.assertTrue(self.consuls[0].session.destroy(held))

    def test_a_session_dies_with_its_check(self):
        agent = self.consuls[0].agent
        self.assertTrue(agent.check.register("locks-ttl", consul.Check.ttl("300s"), check_id="locks-ttl"))
        self.assertTrue(agent.check.ttl_pass("locks-ttl"))
        soon(lambda: self.assertIn("locks-ttl", [row["CheckID"] for row in self.consuls[1].health.node("s1")[1] if row["Status"] == "passing"]))
        body = {"Node": "s1", "NodeChecks": ["serfHealth", "locks-ttl"], "Behavior": "delete", "LockDelay": 0}
        reply = self.curl(0, "PUT", "/v1/session/create", body)
        self.assertEqual(reply.status, 200, reply.body)
        held = reply.json()["ID"]
        self.assertTrue(self.consuls[2].kv.put("locks/check", "mine", acquire=held))
        self.assertTrue(agent.check.ttl_fail("locks-ttl"))
        soon(lambda: self.assertIsNone(self.consuls[1].kv.get("locks/check")[1]))
        self.assertFalse(self.consuls[1].session.info(held)[1])
        reply = self.curl(1, "PUT", "/v1/session/create", body)
        self.assertEqual((reply.status, "is in critical state" in reply.body), (500, True), reply.body)
        self.assertTrue(agent.check.deregister("locks-ttl"))

    def test_transactions_are_all_or_nothing(self):
        txn = self.consuls[0].txn
        done = txn.put([
            {"KV": {"Verb": "set", "Key": "txn/a", "Value": "MQ=="}},
            {"KV": {"Verb": "cas", "Key": "txn/b", "Value": "Mg==", "Index": 0}},
            {"KV": {"Verb": "get", "Key": "txn/a"}},
        ])
        self.assertEqual([row["KV"]["Key"] for row in done["Results"]], ["txn/a", "txn/b", "txn/a"])
        self.assertEqual(done["Results"][2]["KV"]["Value"], "MQ==")
        failing = [{"KV": {"Verb": "set", "Key": "txn/a", "Value": "OQ=="}}, {"KV": {"Verb": "cas", "Key": "txn/b", "Index": 1}}]
        reply = self.curl(1, "PUT", "/v1/txn", failing)
        self.assertEqual(reply.status, 409)
        self.assertEqual([error["OpIndex"] for error in reply.json()["Errors"]], [1])
        self.assertEqual(self.consuls[2].kv.get("txn/a")[1]["Value"], b"1")

    def test_all_servers_have_the_same_state(self):
        def check():
            states = [self.curl(number, "GET", "/v1/operator/state-hash").json() for number in range(3)]
            self.assertEqual(len({(state["Index"], state["Hash"]) for state in states}), 1, states)
        soon(check)


class ZLeaderDies(ClientTest):
    """Last of all: the leader is killed, and the clients go on."""

    def test_clients_go_on_when_the_leader_is_killed(self):
        leader = self.consuls[0].status.leader().split(":")[0]
        victim = next(number for number, server in enumerate(self.servers) if server.address == leader)
        others = [number for number in range(3) if number != victim]
        self.assertTrue(self.consuls[victim].kv.put("failover/before", "kept"))
        held = self.consuls[others[0]].session.create(checks=[], ttl=60)
        self.assertTrue(self.consuls[others[0]].kv.put("failover/lock", "mine", acquire=held))
        CLUSTER.kill(self.servers[victim])

        def write():
            try:
                self.assertTrue(self.consuls[others[0]].kv.put("failover/after", "written"))
            except (consul.ConsulException, OSError) as error:
                raise AssertionError(f"no new leader yet: {error}") from error
        soon(write)
        self.assertEqual(self.consuls[others[1]].session.renew(held)["ID"], held)
        self.assertEqual(self.consuls[others[1]].kv.get("failover/lock")[1]["Session"], held)
        for key, value in (("failover/before", "kept"), ("failover/after", "written")):
            self.assertEqual(self.curl(others[1], "GET", f"/v1/kv/{key}?consistent&raw").body, value)
        soon(lambda: self.assertEqual(
            self.dig(others[0], "consul.service.consul", "A").data("A"),
            sorted(self.servers[number].address for number in others),
        ))

        CLUSTER.start_server(self.servers[victim])
        CLUSTER.wait_ready()
        self.assertEqual(self.curl(victim, "GET", "/v1/kv/failover/after?consistent&raw").body, "written")
        soon(lambda: self.assertEqual(len(self.dig(victim, "consul.service.consul", "A").data("A")), 3))


if __name__ == "__main__":
    unittest.main(verbosity=2)
