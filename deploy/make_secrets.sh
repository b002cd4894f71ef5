#!/bin/sh
# Makes what docker-compose.production.yml wants in the folder `secrets` (or the one that is named); keeps what is there.
set -eu
folder=${1:-secrets}
mkdir -p "$folder"
# Others may not enter the folder; the files in it are read by the users of the containers, each of which sees its own.
chmod 700 "$folder"
umask 022
random() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }
keep() { [ -s "$folder/$1" ] || printf '%s\n' "$2" > "$folder/$1"; }
keep ml_service_api_key "$(random)"
keep database_password "$(random)"
keep ml_service_database_url "postgresql://ml_service:$(cat "$folder/database_password")@db/ml_service"
keep grafana_password "$(random)"
echo "the key of all scopes is in $folder/ml_service_api_key"
