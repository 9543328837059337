#!/bin/sh
# Hands the judge's key from its secret to the programs, which take it from their environment only; then runs the command.
if [ -r /run/secrets/judge_key ]; then
    LOCUS_JUDGE_API_KEY=$(cat /run/secrets/judge_key)
    [ -n "$LOCUS_JUDGE_API_KEY" ] || { echo "The secret judge_key is empty: a judge would answer everybody." >&2; exit 1; }
    VLLM_API_KEY=$LOCUS_JUDGE_API_KEY
    export LOCUS_JUDGE_API_KEY VLLM_API_KEY
fi
exec "$@"
