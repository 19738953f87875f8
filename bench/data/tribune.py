#!/usr/bin/env python3
"""Tribune as a subject of the data-plane kit. The kit is found by BD_KIT; everything else is the kit's own command line.

  tribune.py bench run --tests h1max,h2 --subjects direct,bare-http,envoy,tribune --reps 3 --out raw.jsonl
  tribune.py wan wan --subjects envoy-h2,tribune-gw --loss 0,1,3 --out wan.jsonl
  tribune.py wan bulk --subjects tribune-gw --loss 0,1,3 --out wan.jsonl

TRIBUNE is the product (`tribune connect proxy -config-file=…`); without it, TRIBUNE_RUN is the program that runs a proxy from a file and nothing
else (`cargo build --release -p tribune-proxy --example run`). TRIBUNE_BEFORE is another build of the product, for the subjects `…-before`.
TRIBUNE_CERTS is the folder that certs.sh has made.
"""
import json, os, sys, time

KIT = os.environ.get("BD_KIT") or sys.exit("BD_KIT is not set (folder of the kit: bench.py, wan.py, subjects.py)")
sys.path.insert(0, KIT)
import bench, subjects
bench_kit = bench
from subjects import LOCAL, PEER, PORTS, Subject, need

DOMAIN = "11111111-2222-3333-4444-555555555555.consul"
SPIFFE = f"spiffe://{DOMAIN}/ns/default/dc/dc2/svc/web"
SNI = f"web.default.dc2.internal.{DOMAIN}"
TUNNEL, GATEWAY = 8443, 15443


def certs():
    return os.environ.get("TRIBUNE_CERTS", "/tmp/bd/tribune-certs")


def base(proxy, dc, leaf):
    return {"ID": proxy, "Datacenter": dc, "TrustDomain": DOMAIN, "Service": leaf, "CertFile": f"{certs()}/{leaf}.pem",
            "KeyFile": f"{certs()}/{leaf}.key", "RootFiles": [f"{certs()}/ca.pem"]}


class Tribune(Subject):
    """A pair of sidecars; with gateways=True, the way between them leads through two gateways and a QUIC tunnel."""
    binary_var = "TRIBUNE_RUN"

    def protocol(self, kind):
        return "http" if kind == "http" and not self.opt.get("l4") else "tcp"

    def client(self, net, kind, endpoint):
        upstream = {"Listen": f"127.0.0.1:{LOCAL[kind]}", "Service": "web", "Datacenter": "dc2", "Protocol": self.protocol(kind), "Sni": SNI,
                    "SpiffeIds": [SPIFFE], "Endpoints": [{"Address": endpoint, "Instance": "web", "Node": "b", "Weight": 1}], "ConnectTimeoutMs": 5000}
        return {**base("api", "dc1", "api"), "Upstreams": {"web": upstream}}

    def server(self, kind, listen):
        inbound = {"Listen": listen, "Local": f"127.0.0.1:{PORTS[kind]}", "Protocol": self.protocol(kind), "DefaultAction": "deny",
                   "Intentions": [{"Source": "api", "Action": "allow"}], "ConnectTimeoutMs": 5000}
        return {**base("web", "dc2", "web"), "Inbound": inbound}

    def gateway(self, dc, listen, tunnel, others, services):
        gateway = {"Listen": listen, "TunnelListen": tunnel, "Datacenters": others, "Services": services}
        return {**base(f"gateway-{dc}", dc, f"gateway-{dc}"), "Gateway": gateway}

    def run(self, net, name, ns, config):
        path = net.write(f"{name}.json", json.dumps(config))
        if product := os.environ.get(self.opt.get("product", "TRIBUNE")):
            what = "gateway" if "Gateway" in config else "proxy"
            return net.spawn(name, ns, [product, "connect", what, f"-config-file={path}", f"-threads={self.threads}", "-log-level=error"])
        net.spawn(name, ns, [self.binary(), path, str(self.threads)])

    def start(self, net, kind):
        direct = f"{net.peer}:{PEER[kind]}"
        if not self.opt.get("gateways"):
            self.run(net, "in", "b", self.server(kind, f"0.0.0.0:{PEER[kind]}"))
            return self.run(net, "out", "a", self.client(net, kind, direct))
        web = {SNI: [{"Address": f"127.0.0.1:{PEER[kind]}", "Instance": "web", "Node": "b", "Weight": 1}]}
        a, b = f"{net.self_ip}:{TUNNEL}", f"{net.peer}:{TUNNEL}"
        self.run(net, "in", "b", self.server(kind, f"127.0.0.1:{PEER[kind]}"))
        self.run(net, "gwb", "b", self.gateway("dc2", f"127.0.0.1:{GATEWAY + 10}", b, {"dc1": [a]}, web))
        self.run(net, "gwa", "a", self.gateway("dc1", f"127.0.0.1:{GATEWAY}", a, {"dc2": [b]}, {}))
        self.run(net, "out", "a", self.client(net, kind, f"127.0.0.1:{GATEWAY}"))


BEFORE = "TRIBUNE_BEFORE"
for s in [Tribune("tribune"), Tribune("tribune-2t", threads=2), Tribune("tribune-l4", l4=True), Tribune("tribune-gw", gateways=True), Tribune("tribune-gw-2t", gateways=True, threads=2),
          Tribune("tribune-before", product=BEFORE), Tribune("tribune-gw-before", gateways=True, product=BEFORE)]:
    subjects.SUBJECTS[s.name] = s


def one_bulk(wan, a, name, loss, cc, seed):
    """One stream through a pair over the link, from B to A as bd-limit's is."""
    net = bench_kit.Net(wan=True)
    s = subjects.SUBJECTS[name]
    try:
        wan.set_cc(cc)
        link = wan.Link(net, a.rtt, loss, a.rate, a.queue_kb, seed)
        bench_kit.app(net)
        time.sleep(0.3)
        s.start(net, "iperf")
        time.sleep(3)
        host, port = s.addr("iperf")
        c0, m0 = {k: bench_kit.cpu_s(p.pid) for k, p in net.procs.items()}, bench_kit.machine()
        o = bench_kit.out(["iperf3", "-c", host, "-p", str(port), "-t", str(a.secs), "-R", "-J"], timeout=a.secs + 20)
        cpu = {k: round(bench_kit.cpu_s(p.pid) - c0[k], 2) for k, p in net.procs.items()}
        m1 = bench_kit.machine()
        mbit = json.loads(o)["end"]["sum_received"]["bits_per_second"] / 1e6
        return [{"test": "wan-bulk1", "mbit": mbit, "p50_us": 0, "p99_us": 0, "cpu": cpu, "machine_cpu": round(m1[0] - m0[0], 2), "relay": link.stats()}]
    finally:
        s.stop(net)
        net.close()
        wan.set_cc("cubic")


def bulk(wan, a):
    """Raw QUIC with BBR, and each subject beside it."""
    bench_kit.ensure_setup()
    jobs = []
    for rep in range(a.reps):
        for loss in a.loss:
            label = {"loss": loss, "rtt": a.rtt, "rep": rep}
            link = (a.rtt, loss, a.rate, a.queue_kb, rep + 1)
            jobs.append(({"test": "wan-bulk1", "subject": "raw-quic", "cc": "bbr", **label},
                         lambda link=link: wan.raw_once("quic", "bulk", a.secs, ip=wan.WAN_B, cc="bbr", link=link)))
            jobs += [({"subject": n, "cc": "cubic", **label}, lambda n=n, loss=loss, rep=rep: one_bulk(wan, a, n, loss, "cubic", rep + 1))
                     for n in a.subjects.split(",")]
    wan.locked(a, jobs)


def wrk_for_oha(addr, secs, rate, conns, path="/"):
    """Where oha is not to be had: wrk's closed loop has the same percentiles, without p99.9. It cannot hold a rate."""
    if rate:
        raise RuntimeError("OHA is not set (path of the binary): wrk cannot hold a rate")
    r = bench.wrk(addr, secs, conns, path, threads=1)
    return {**r, "mbit": r["rps"] * (100 << 10 if path == "/100k" else 128) * 8e-6, "mean_us": r["p50_us"], "p999_us": r["p99_us"]}


if __name__ == "__main__":
    if not os.environ.get("OHA"):
        bench.oha, bench_out = wrk_for_oha, bench.out
        os.environ["OHA"] = "oha"
        # wan.py warms up with oha itself.
        bench.out = lambda cmd, **kw: bench_out(["wrk", "-t1", "-c50", "-d2s", cmd[-1]], **kw) if cmd[0] == "oha" else bench_out(cmd, **kw)
    if len(sys.argv) < 2 or sys.argv[1] not in ("bench", "wan"):
        sys.exit(__doc__)
    which = sys.argv.pop(1)
    if which == "wan":
        import wan as bench
        if sys.argv[1:2] == ["bulk"]:
            bench.rawwan = lambda a: bulk(bench, a)
            sys.argv[1] = "rawwan"
    bench.main()
