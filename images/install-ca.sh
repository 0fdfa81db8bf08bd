#!/bin/sh
# install-ca.sh FOLDER: put every certificate of the folder's *.crt files into Debian's trust store.
# A file may be a bundle; update-ca-certificates wants one certificate per file.
set -eu

folder=$1
store=/usr/local/share/ca-certificates/extra
mkdir -p "$store"

for file in "$folder"/*.crt; do
    [ -f "$file" ] || continue
    awk -v stem="$store/$(basename "$file" .crt)" '
        /-----BEGIN CERTIFICATE-----/ { count++; inside = 1 }
        inside { print > (stem "-" count ".crt") }
        /-----END CERTIFICATE-----/ { inside = 0; close(stem "-" count ".crt") }
    ' "$file"
    if ! [ -f "$store/$(basename "$file" .crt)-1.crt" ]; then
        echo "images/ca/$(basename "$file") holds no certificate in PEM format." >&2
        exit 1
    fi
done

if [ -z "$(ls -A "$store")" ]; then
    rmdir "$store"
    exit 0
fi
update-ca-certificates
printf '[global]\ncert = /etc/ssl/certs/ca-certificates.crt\n' > /etc/pip.conf
