#!/bin/sh
# The whole campaign into one result file:  ./campaign.sh results/NAME.jsonl [STEP...]
# Binaries come from the environment; a subject whose variable is not set is left out.
#   CONSUL_BIN  ETCD_BIN  KNOTD_BIN  TRIBUNE_BIN
# CPB is the built cpbench (default: cpbench on PATH).
cd "$(dirname "$0")" || exit 1
out=$1; shift
steps=${*:-limits idle kv catalog agent health dns fanout storm propagate failover scale}
cpb=${CPB:-cpbench}

# subjects NAME...: the files of those whose binary is known.
subjects() {
  for s; do
    case $s in
      consul*) [ -n "$CONSUL_BIN" ] ;;
      tribune*) [ -n "$TRIBUNE_BIN" ] ;;
      etcd*) [ -n "$ETCD_BIN" ] ;;
      knot) [ -n "$KNOTD_BIN" ] ;;
    esac && printf 'subjects/%s.json ' "$s"
  done
}
# go SCENARIO 'SUBJECT...' [OPTION...]
go() {
  scenario=$1; list=$(subjects $2); shift 2
  # shellcheck disable=SC2086
  "$cpb" run -s "$scenario" -o "$out" "$@" $list
}

for step in $steps; do
  echo "== $step $(date -u +%H:%M:%S) load $(cut -d' ' -f1-3 /proc/loadavg)"
  case $step in
    limits)    "$cpb" limits -o "$out" ;;
    idle)      go idle 'tribune1 consul1 consul1-defaults tribune3 consul3 etcd1 etcd3 knot' ;;
    kv)        go kv 'tribune1 consul1 etcd1 null tribune3 consul3 etcd3 tribune3-follower consul3-follower etcd3-follower' ;;
    catalog)   go catalog 'tribune1 consul1 tribune3 consul3 tribune3-follower consul3-follower null' ;;
    agent)     go agent 'tribune1 consul1 tribune3-follower consul3-follower' ;;
    health)    go health 'tribune1 consul1 null' ;;
    dns)       go dns 'tribune1 consul1 knot' --secs 5 ;;
    fanout)    go fanout 'tribune1 consul1 null' ;;
    storm)     go storm 'tribune1 consul1 null' ;;
    propagate) go propagate 'tribune1 consul1 tribune3 consul3' ;;
    failover)  go failover 'tribune3 consul3 consul3-defaults etcd3' --trials 4 ;;
    scale)     go scale 'tribune1 consul1' ;;
    *) echo "no step $step"; exit 1 ;;
  esac
done
