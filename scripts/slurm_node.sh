#!/usr/bin/env bash
# Make this machine a SLURM cluster of one node, to try launcher=slurm and for `make test-slurm`.
# For root on Debian or Ubuntu; installs slurmctld, slurmd and munge where they are missing. Does nothing where a cluster answers.
#   scripts/slurm_node.sh        up
#   scripts/slurm_node.sh down   stop what it started
set -euo pipefail

answers() { timeout 5 sinfo --noheader --format %T 2>/dev/null | grep -qE 'idle|mix|alloc'; }

if [ "${1:-up}" = down ]; then
	for daemon in slurmd slurmctld; do
		if [ -f "/run/mbrl_$daemon.pid" ]; then kill "$(cat "/run/mbrl_$daemon.pid")" 2>/dev/null || true; fi
	done
	exit 0
fi

if command -v sinfo >/dev/null && answers; then exit 0; fi
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
	echo "slurm_node.sh: needs root on Debian or Ubuntu, or a cluster that answers sinfo" >&2
	exit 1
fi

if [ -s /etc/slurm/slurm.conf ] && ! grep -q '^ClusterName=one_node$' /etc/slurm/slurm.conf; then
	echo "slurm_node.sh: /etc/slurm/slurm.conf is of another cluster, which does not answer; it is left alone" >&2
	exit 1
fi

if ! command -v slurmctld >/dev/null || ! command -v slurmd >/dev/null || ! command -v munged >/dev/null; then
	apt-get update -qq
	DEBIAN_FRONTEND=noninteractive apt-get install -qq --yes slurmctld slurmd slurm-client munge >/dev/null
fi

# munge: how the daemons know each other. Its key is this machine's alone.
install -d -o munge -g munge -m 755 /run/munge
install -d -o munge -g munge -m 700 /etc/munge /var/lib/munge /var/log/munge
if [ ! -s /etc/munge/munge.key ]; then head -c 1024 /dev/urandom >/etc/munge/munge.key; fi
chown munge:munge /etc/munge/munge.key
chmod 400 /etc/munge/munge.key
pgrep -x munged >/dev/null || su munge -s /bin/sh -c munged

# cred_expire is how long a requeued job has to wait; KillWait how long one that was told to end may take.
node=$(hostname -s)
install -d /etc/slurm /var/spool/slurmctld /var/spool/slurmd /var/log/slurm
cat >/etc/slurm/slurm.conf <<EOF
ClusterName=one_node
SlurmctldHost=$node(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=cred_expire=5
SlurmctldPidFile=/run/mbrl_slurmctld.pid
SlurmdPidFile=/run/mbrl_slurmd.pid
StateSaveLocation=/var/spool/slurmctld
SlurmdSpoolDir=/var/spool/slurmd
SlurmctldLogFile=/var/log/slurm/slurmctld.log
SlurmdLogFile=/var/log/slurm/slurmd.log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=2,batch_sched_delay=1
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
JobRequeue=1
KillWait=3
ReturnToService=2
NodeName=$node NodeAddr=127.0.0.1 CPUs=$(nproc) RealMemory=$(($(awk '/MemTotal/ {print $2}' /proc/meminfo) / 1100)) State=UNKNOWN
PartitionName=all Nodes=$node Default=YES MaxTime=INFINITE State=UP
EOF

pgrep -x slurmctld >/dev/null || slurmctld
pgrep -x slurmd >/dev/null || slurmd
for _ in $(seq 60); do
	if answers; then exit 0; fi
	sleep 0.5
done
echo "slurm_node.sh: no node came up; see /var/log/slurm" >&2
exit 1
