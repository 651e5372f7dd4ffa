#!/bin/sh
# Make all keys and certificates in keys/, one folder for each service, by openssl and ssh-keygen:
#
#   ca.crt                   the certificate by which all recognize the SuperLink (TLS)
#   auth, auth.pub           the key by which the SuperLink recognizes a node
#   posts, allowed_signers   the key that encrypts and signs a node's posts, and everyone's public keys
#
# If nodes belong to different organizations, each makes its own auth and posts, and sends only the public keys.
set -eu
cd "$(dirname "$0")"
NODES=${NODES:-4}
SERVER=${SERVER:-superlink}
if [ -e keys ]; then
    echo "keys/ exists; no key is replaced: delete the folder first" >&2
    exit 1
fi
umask 077
mkdir -p keys/superlink keys/client keys/ca
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 365 -subj "/CN=flwr-decaf CA" \
    -keyout keys/ca/ca.key -out keys/ca/ca.crt 2>/dev/null
openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=$SERVER" \
    -keyout keys/superlink/server.key -out keys/ca/server.csr 2>/dev/null
# The SuperLink's own processes connect to 127.0.0.1.
echo "subjectAltName=DNS:$SERVER,DNS:localhost,IP:127.0.0.1" > keys/ca/names
openssl x509 -req -in keys/ca/server.csr -CA keys/ca/ca.crt -CAkey keys/ca/ca.key -CAcreateserial -days 365 \
    -extfile keys/ca/names -out keys/superlink/server.pem 2>/dev/null
cp keys/ca/ca.crt keys/superlink/
cp keys/ca/ca.crt keys/client/

node=0
while [ "$node" -lt "$NODES" ]; do
    folder=keys/node-$node
    mkdir -p "$folder" "out/node-$node"
    cp keys/ca/ca.crt "$folder/"
    ssh-keygen -q -t ecdsa -b 384 -N "" -C "node-$node" -f "$folder/auth"
    ssh-keygen -q -t ed25519 -N "" -C "node-$node" -f "$folder/posts"
    cp "$folder/auth.pub" "keys/client/node-$node.pub"
    echo "node-$node $(cut -d ' ' -f 1,2 "$folder/posts.pub")" >> keys/allowed_signers
    node=$((node + 1))
done
for folder in keys/node-*; do cp keys/allowed_signers "$folder/"; done
mkdir -p runs
echo "keys/ has a folder for each service; keep keys/ca off the server"
