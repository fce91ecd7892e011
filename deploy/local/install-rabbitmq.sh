#!/bin/sh
# Installs Debian's rabbitmq-server as root without starting its service: a policy that refuses every start
# (exit 101, see invoke-rc.d(8)) stands for the time of the install; what was there before is put back.
set -eu
policy=/usr/sbin/policy-rc.d
saved=$policy.before-warren

restore() {
    rm -f "$policy"
    if [ -e "$saved" ] || [ -L "$saved" ]; then mv "$saved" "$policy"; fi
}

if [ -e "$policy" ] || [ -L "$policy" ]; then mv "$policy" "$saved"; fi
trap restore EXIT
trap 'exit 130' HUP INT TERM
printf '#!/bin/sh\nexit 101\n' >"$policy"
chmod 755 "$policy"

export DEBIAN_FRONTEND=noninteractive
apt-get -qq -o DPkg::Lock::Timeout=300 update
apt-get -qq -o DPkg::Lock::Timeout=300 install -y --no-install-recommends rabbitmq-server
# We wanted its files, not a broker on this machine's port 5672 after the next boot.
if command -v systemctl >/dev/null; then systemctl disable rabbitmq-server >/dev/null 2>&1 || true; fi
