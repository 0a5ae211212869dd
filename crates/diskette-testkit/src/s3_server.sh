# usage: FOLDER PORT MONITOR_PORT
#
# Starts Ceph's gateway for S3 on 127.0.0.1:PORT: one monitor, one store in memory, no rights needed. The processes' ids
# are in FOLDER/run.
set -euo pipefail
folder=$1 port=$2 monitor=$3
cluster=7d0d1f6a-1111-4222-8333-0123456789ab
mkdir -p "$folder"/{mon,osd/0,log,run}
cat >"$folder/ceph.conf" <<CONF
[global]
fsid = $cluster
mon initial members = a
mon host = v1:127.0.0.1:$monitor
public network = 127.0.0.0/8
auth cluster required = none
auth service required = none
auth client required = none
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 8
osd crush chooseleaf type = 0
mon allow pool size one = true
mon data = $folder/mon/a
mon data avail crit = 1
osd data = $folder/osd/0
osd objectstore = memstore
memstore device bytes = 1073741824
osd class update on start = false
ms bind msgr2 = false
log file = $folder/log/\$name.log
admin socket = $folder/run/\$name.asok
pid file = $folder/run/\$name.pid
run dir = $folder/run
[client.rgw]
rgw frontends = beast endpoint=127.0.0.1:$port
rgw dynamic resharding = false
CONF
cd "$folder"
monmaptool --create --fsid $cluster --addv a "v1:127.0.0.1:$monitor" monmap --clobber
ceph-mon -c ceph.conf -i a --mkfs --monmap monmap
ceph-mon -c ceph.conf -i a
# Whoever asks before the monitor knows the cluster is refused, sometimes once more after an answer.
for _ in {1..60}; do
  if ceph -c ceph.conf osd new 11111111-2222-4333-8444-555555555555 0; then
    break
  fi
  sleep 0.5
done
ceph-osd -c ceph.conf -i 0 --mkfs --osd-uuid 11111111-2222-4333-8444-555555555555
# A store that gives up is started anew.
for _ in {1..60}; do
  if ! [[ -s run/osd.0.pid && -d /proc/$(cat run/osd.0.pid) ]]; then
    ceph-osd -c ceph.conf -i 0 || true
  fi
  if ceph -c ceph.conf osd stat | grep -q '1 up'; then
    break
  fi
  sleep 0.5
done
radosgw-admin -c ceph.conf -n client.rgw user create --uid=t --display-name=t --access-key=KEY --secret-key=SECRET
radosgw -c ceph.conf -n client.rgw
for _ in {1..120}; do
  if (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
    exit 0
  fi
  sleep 0.5
done
echo "the gateway does not answer" >&2
exit 1
