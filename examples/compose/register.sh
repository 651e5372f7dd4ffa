#!/bin/sh
# Register the nodes' public keys at the SuperLink, as soon as it responds.
set -eu
until flwr supernode list deployed --format json | grep -q '"success": true'; do sleep 1; done
for key in /keys/node-*.pub; do
    flwr supernode register "$key" deployed || true # it is refused if it is registered already
done
