#!/usr/bin/env bash
# The template of the namespace's Secrets, filled from the environment:
#   bash k8s/secrets.sh | kubectl apply -f -
# RAY_AUTH_TOKEN, RTL_TOKEN and REDIS_PASSWORD must be set (openssl rand -hex 32), and the two AWS_
# keys unless the service accounts have rights of their own. Values are quoted as JSON strings are:
# without quotes, backslashes and line ends in them.
set -euo pipefail
for name in RAY_AUTH_TOKEN RTL_TOKEN REDIS_PASSWORD; do
  if [ "$(printf %s "${!name:-}" | wc -c)" -lt 16 ]; then
    echo "$name is unset or shorter than 16 characters; set it: export $name=\$(openssl rand -hex 32)" >&2
    exit 1
  fi
done
cat <<EOF
apiVersion: v1
kind: Namespace
metadata:
  name: rtl
  labels:
    rtl/step: ground
    app.kubernetes.io/part-of: rtl
    pod-security.kubernetes.io/enforce: restricted
---
apiVersion: v1
kind: Secret
metadata: {name: rtl-ray-token, namespace: rtl}
stringData: {auth_token: "$RAY_AUTH_TOKEN"} # KubeRay gives it to Ray's pods as RAY_AUTH_TOKEN
---
apiVersion: v1
kind: Secret
metadata: {name: rtl-endpoint-token, namespace: rtl}
stringData: {RTL_TOKEN: "$RTL_TOKEN"}
---
apiVersion: v1
kind: Secret
metadata: {name: rtl-redis, namespace: rtl}
stringData: {password: "$REDIS_PASSWORD"}
EOF
if [ -n "${AWS_ACCESS_KEY_ID:-}" ]; then
  cat <<EOF
---
apiVersion: v1
kind: Secret
metadata: {name: rtl-s3, namespace: rtl}
stringData:
  AWS_ACCESS_KEY_ID: "$AWS_ACCESS_KEY_ID"
  AWS_SECRET_ACCESS_KEY: "${AWS_SECRET_ACCESS_KEY:?AWS_ACCESS_KEY_ID is set without it}"
EOF
fi
