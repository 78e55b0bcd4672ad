#!/bin/sh
# From an AWS account to a healthy etcd cluster, with terraform/init: checks its tools, plans, shows, asks, applies, waits
# until every member is healthy, and prints the endpoints.
#   scripts/run.sh [--yes] [terraform's own arguments, as -var shape=group]
#   scripts/run.sh --destroy [--yes] [the same arguments]
# --yes doesn't ask. Data volumes with at_destroy = "keep" stay, and are named.
set -eu
cd "$(dirname "$0")/../terraform/init"

HEALTHY_WITHIN=1200 # seconds; machines boot in one to three minutes, a founding waits up to one more

say() { printf '%s\n' "$*" >&2; }
fail() { say "run.sh: $*"; exit 1; }

sure=no destroy=no
while [ $# -gt 0 ]; do
    case $1 in
    --yes) sure=yes ;;
    --destroy) destroy=yes ;;
    --help) sed -n '2,6s/^# \{0,1\}//p' "../../scripts/run.sh"; exit 0 ;;
    --) shift; break ;;
    --*) fail "there is no $1: --yes, --destroy, and arguments of terraform plan" ;;
    *) break ;;
    esac
    shift
done

missing=
for tool in terraform aws openssl; do
    command -v "$tool" >/dev/null || missing="$missing $tool"
done
[ -z "$missing" ] || fail "missing:$missing; install them (terraform 1.11 or later, the AWS CLI), then run me again"
[ -e aws_credentials.tf ] || fail "no terraform/init/aws_credentials.tf:
  cp terraform/init/aws_credentials.tf.example terraform/init/aws_credentials.tf, and look into it"

confirm() {
    [ "$sure" = yes ] && return
    printf '%s [yes/no] ' "$1" >&2
    read -r answer || answer=no
    [ "$answer" = yes ] || fail 'nothing was changed'
}

make_ca() {
    say 'Making a CA in terraform/init/private: keep ca.key; who has it can be a member.'
    (
        umask 077
        cd private
        openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3650 -subj '/CN=etcd CA' \
            -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign,cRLSign -keyout ca.key -out ca.crt
        # For clients elsewhere: etcdctl --cacert ca.crt --cert client.crt --key client.key
        openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj '/CN=client' -keyout client.key -out client.csr
        printf 'basicConstraints=CA:FALSE\nkeyUsage=digitalSignature\nextendedKeyUsage=clientAuth\n' >client.ext
        openssl x509 -req -in client.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 365 -extfile client.ext -out client.crt
        rm client.csr client.ext
    ) 2>/dev/null || fail 'openssl could not make the CA'
}

terraform init -input=false >/dev/null
plan=$(mktemp)
trap 'rm -f "$plan"' EXIT
trap 'exit 130' INT TERM

if [ "$destroy" = yes ]; then
    # Terraform refuses to destroy kept volumes, so they are taken out of its state; a plan that isn't applied puts them back.
    kept=$(terraform state list | grep '\.aws_ebs_volume\.kept\[' || true)
    if [ -n "$kept" ]; then
        say "These data volumes stay, and Terraform forgets them: $(terraform output -json data_volume_ids)"
        state=$(mktemp)
        terraform state pull >"$state"
        trap 'terraform state push -force "$state" >/dev/null; rm -f "$plan" "$state"' EXIT
        printf '%s\n' "$kept" | tr '\n' '\0' | xargs -0 terraform state rm >/dev/null
    fi
    terraform plan -destroy -input=false -out="$plan" "$@"
    confirm 'Destroy all that?'
    trap 'rm -f "$plan" ${state:+"$state"}' EXIT
    terraform apply -input=false "$plan"
    exit 0
fi

# The console says what is wrong, too, as long as there is no CA.
if [ ! -e private/ca.crt ] && [ ! -e private/ca.key ] && echo var.tls | terraform console "$@" 2>/dev/null | grep -q '^"minted"$'; then
    make_ca
fi

terraform plan -input=false -out="$plan" "$@"
confirm 'Apply that?'
terraform apply -input=false "$plan"

output() { terraform output -raw "$1" 2>/dev/null || true; }
region=$(output region) size=$(output size) targets=$(output target_group_arn)

healthy() {
    aws elbv2 describe-target-health --region "$region" --target-group-arn "$targets" \
        --query 'TargetHealthDescriptions[].TargetHealth.State' --output text | tr '\t' '\n' | grep -c '^healthy$' || true
}

if [ -z "$targets" ]; then
    say 'There is no load balancer to ask whether the members are healthy.'
else
    say "Waiting for $size healthy members …"
    began=$(date +%s) seen=
    until now=$(healthy) && [ "$now" -ge "$size" ]; do
        [ "$now" = "$seen" ] || say "$now of $size members are healthy"
        seen=$now
        [ $(($(date +%s) - began)) -lt "$HEALTHY_WITHIN" ] || fail "only $now of $size members are healthy after $HEALTHY_WITHIN s; a member says why in: journalctl -u etcd"
        sleep 2
    done
    say "$size of $size members are healthy"
fi

terraform output
