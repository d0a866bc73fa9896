#!/bin/sh
# Make the base image's files from Debian packages alone: bootstrap.sh FOLDER > ARCHIVE
set -eu
folder=$1
here=$(dirname "$0")
packages=$(paste -sd, "$here/packages.txt")

debootstrap --variant=minbase --include="$packages" bookworm "$folder" >&2

# The caches are as large as the system itself, and documentation is of no use in a container.
rm -rf "$folder"/var/cache/apt/* "$folder"/var/lib/apt/lists/* "$folder"/var/log/*.log
rm -rf "$folder"/usr/share/doc/* "$folder"/usr/share/man/* "$folder"/usr/share/locale/*
: > "$folder"/etc/resolv.conf
: > "$folder"/etc/hostname

tar --create --directory="$folder" --numeric-owner --exclude=./dev/* .
