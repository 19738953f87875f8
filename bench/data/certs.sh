#!/bin/sh
# Make a throw-away CA and the leaves of a small mesh, with the SPIFFE ids that Tribune speaks: certs.sh DIR
set -eu
dir=${1:?usage: certs.sh DIR}; mkdir -p "$dir"; cd "$dir"
domain=11111111-2222-3333-4444-555555555555.consul
key() { openssl ecparam -name prime256v1 -genkey -noout | openssl pkcs8 -topk8 -nocrypt -out "$1.key"; }
key ca
openssl req -x509 -new -key ca.key -sha256 -days 30 -subj "/CN=bench root" -out ca.pem \
  -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign,cRLSign -addext "subjectAltName=URI:spiffe://$domain"
leaf() { # name, path of the SPIFFE id
  key "$1"
  openssl req -new -key "$1.key" -subj "/CN=$1" -out "$1.csr"
  printf 'basicConstraints=CA:FALSE\nkeyUsage=critical,digitalSignature\nextendedKeyUsage=serverAuth,clientAuth\nsubjectAltName=URI:spiffe://%s%s\n' "$domain" "$2" > "$1.ext"
  openssl x509 -req -in "$1.csr" -CA ca.pem -CAkey ca.key -CAcreateserial -sha256 -days 30 -extfile "$1.ext" -out "$1.pem" 2>/dev/null
}
leaf api /ns/default/dc/dc1/svc/api
leaf web /ns/default/dc/dc2/svc/web
leaf gateway-dc1 /gateway/mesh/dc/dc1
leaf gateway-dc2 /gateway/mesh/dc/dc2
rm -f ./*.csr ./*.ext
