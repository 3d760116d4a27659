#!/bin/bash
# A pot by hand: what somebody without kpot would type. $1: a folder with `downloads` (NAME URL) and `images` (the
# registry's names), one a line; $2: threads of zstd. Leaves pot.tar.zst and its sum there.
set -euo pipefail
cd "$1"

mkdir files
while read -r name url; do
    curl --fail --silent --show-error --output "files/$name" "$url"
done <downloads
for archive in files/*.tgz; do
    mkdir "${archive%.tgz}"
    tar -xzf "$archive" -C "${archive%.tgz}"
    rm "$archive"
done

# One layout for all, so that a layer of two images is fetched and kept once.
number=0
while read -r image; do
    number=$((number + 1))
    skopeo --insecure-policy copy --quiet --src-tls-verify=false "docker://$image" "oci:layout:$number"
done <images
for blob in layout/blobs/sha256/*; do
    if [ "$(od -An -tx1 -N2 "$blob")" = ' 1f 8b' ]; then
        gunzip <"$blob" >"$blob.tar"
        rm "$blob"
    fi
done

# kpot's level and window: docs/decisions/compression.md.
tar -c files layout | zstd -q "-T$2" -11 --zstd=wlog=23 -o pot.tar.zst
sha256sum pot.tar.zst >pot.tar.zst.sha256
