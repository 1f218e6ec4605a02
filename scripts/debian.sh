# Sourced by the other scripts: where what they fetch is kept, and how it is fetched on Debian and systems like it.

export DEBIAN_FRONTEND=noninteractive
cache=${ANYBROKER_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/anybroker}

say() { printf '%s: %s\n' "$(basename "$0")" "$*" >&2; }
die() { say "$*"; exit 1; }

# What follows as root, through sudo where needed.
as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"
  elif command -v sudo >/dev/null; then sudo "$@"
  else die "'$1' needs root: run this as root, or install sudo"
  fi
}

# Runs quietly, and shows what was said only when it failed.
quietly() {
  local log; log=$(mktemp)
  # In a shell of its own, whose end is no end of this one.
  if ! ("$@") >"$log" 2>&1; then
    cat "$log" >&2
    say "failed: $*: $(tail -1 "$log")"
    rm -f "$log"
    exit 1
  fi
  rm -f "$log"
}

apt_get() {
  # Another one that installs something is waited for.
  quietly as_root apt-get -o DPkg::Lock::Timeout=300 "$@"
}

# The Debian mirror this system itself uses.
debian_mirror() {
  apt-get indextargets --format '$(ORIGIN) $(LABEL) $(REPO_URI)' 'Created-By: Packages' \
    | sed -n 's/^Debian Debian //p' | sort -u | head -1
}

# debian_system NAME RELEASE PACKAGE: a whole small Debian with the package in it, $cache/NAME, unless it is there.
# No service on this system, nothing else changed.
debian_system() {
  local root=$cache/$1 mirror
  [ ! -e "$root" ] || return 0
  mirror=${ANYBROKER_DEBIAN_MIRROR:-$(debian_mirror)}
  [ -n "$mirror" ] || die "this system's apt sources name no Debian: set ANYBROKER_DEBIAN_MIRROR to the URL of a mirror"
  say "Debian $2 with $3 into $root (half a minute)"
  as_root rm -rf --one-file-system "$root.new"
  # What it mounts there is to be gone with it, also when it is killed.
  quietly as_root unshare --mount debootstrap --variant=minbase --include="$3" "$2" "$root.new" "$mirror"
  as_root rm -rf "$root.new"/var/cache/apt/* "$root.new"/var/lib/apt/lists/* "$root.new"/usr/share/{doc,man,locale}
  as_root mv "$root.new" "$root"
}
