#!/bin/sh
# From an AWS account to a healthy etcd cluster, with terraform/init: checks its tools, plans, shows, asks, applies, waits
# until every member is healthy, and prints the endpoints.
#   scripts/run.sh [--yes] [terraform's own arguments, as -var shape=group]
#   scripts/run.sh --destroy [--yes] [the same arguments]
# --yes doesn't ask. Data volumes with at_destroy = "keep" stay, and so does a bucket for snapshots; they are named.
set -eu
cd "$(dirname "$0")/../terraform/init"

HEALTHY_WITHIN=1200 # seconds; machines boot in one to three minutes, a bootstrap waits up to one more

GUARDS='\.terraform_data\.kept\[\|\.aws_ebs_volume\.kept\[' # of volumes to be kept, in Terraform's state

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
[ -e aws_credentials.tf ] || fail "no terraform/init/aws_credentials.tf: \
cp terraform/init/aws_credentials.tf.example terraform/init/aws_credentials.tf, and edit it"

confirm() {
    [ "$sure" = yes ] && return
    printf '%s [yes/no] ' "$1" >&2
    read -r answer || { answer=no; say; }
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

ask() ( # EXPRESSION ARGUMENT …: its value, by those arguments that are about variables
    expression=$1 more=$# takes=no
    while more=$((more - 1)) && [ "$more" -gt 0 ]; do
        shift
        case $takes$1 in
        yes* | no-var=* | no-var-file=*) takes=no ;;
        no-var | no-var-file) takes=yes ;;
        *) continue ;;
        esac
        set -- "$@" "$1"
    done
    shift
    printf '%s\n' "$expression" | terraform console "$@" 2>/dev/null | sed -n 's/^"\(.*\)"$/\1/p'
)

# Nothing is said if a variable is wrong: the plan does that at length.
told=$(ask 'join(" ", [var.region, var.tls, var.data_volume.at_destroy == null ? "-" : var.data_volume.at_destroy])' "$@") || true
read -r region tls at_destroy <<END
$told
END
who=$(aws sts get-caller-identity ${region:+--region "$region"} --query '[Account, Arn]' --output text 2>&1) ||
    fail "AWS doesn't know you${region:+ in $region}: $(printf '%s\n' "$who" | sed -n '/./{p;q;}'); \
log in (aws sso login), export AWS_PROFILE=NAME (see terraform/init/aws_credentials.tf), or correct the variable region"
say "Account $(printf '%s\n' "$who" | tr '\t' ' ')${region:+, region $region}"

# Terraform waits for what it is doing, and saves what it has done; then it is our turn.
apply() {
    trap 'cut=yes' INT TERM
    cut=no
    terraform apply -input=false "$plan" && [ "$cut" = no ] && { trap 'exit 130' INT TERM; return; }
    fail "the apply ended early: what was made is in Terraform's state, but for what it was cut off from, as named above; \
run me again to go on, or with --destroy to take it away"
}

# Out of Terraform's state, whatever ends this before the plan is applied puts it back.
forget() { # ADDRESSES, one a line
    state=$(mktemp)
    terraform state pull >"$state"
    trap 'terraform state push -force "$state" >/dev/null; rm -f "$plan" "$state"' EXIT
    printf '%s\n' "$1" | tr '\n' '\0' | xargs -0 terraform state rm >/dev/null
}
forgotten() { trap 'rm -f "$plan" ${state:+"$state"}' EXIT; }

if [ "$destroy" = yes ]; then
    [ -n "$(terraform state list 2>/dev/null)" ] ||
        fail "there is nothing to destroy: Terraform's state is empty; \
it is where you applied: terraform/init/terraform.tfstate, or your backend"
    # Terraform refuses to destroy kept volumes and the bucket for snapshots: it forgets them, with all that guards them.
    volumes='' applied=$(terraform output -raw at_destroy 2>/dev/null) || applied=
    if [ "$at_destroy" = keep ] || terraform state list | grep -q "$GUARDS"; then
        volumes=$(terraform state list | grep -e '\.aws_ebs_volume\.data\[' -e "$GUARDS" || true)
    elif [ "${at_destroy:--}" != - ] && [ -n "$applied" ] && [ "$at_destroy" != "$applied" ]; then
        fail "data_volume.at_destroy is $at_destroy, and the volumes were last applied with $applied, which a destroy goes by: \
apply first (scripts/run.sh), then destroy"
    fi
    bucket=$(terraform state list | grep '\.aws_s3_bucket[a-z_]*\.snapshots\[' || true)
    kept=$(printf '%s\n' "$volumes" "$bucket" | sed '/^$/d')
    if [ -n "$volumes" ]; then
        say "These data volumes stay, and Terraform forgets them: $(terraform output -json data_volume_ids)"
        say 'A new cluster at the same addresses takes them as existing_volumes.'
    fi
    if [ -n "$bucket" ]; then
        say "The snapshots stay, and Terraform forgets their bucket: $(terraform output -raw snapshots_place)"
        say 'A new cluster takes it as the place in its snapshots.'
    fi
    [ -z "$kept" ] || forget "$kept"
    terraform plan -destroy -input=false -out="$plan" "$@"
    confirm 'Destroy all that?'
    forgotten
    apply
    exit 0
fi

if [ "$tls" = minted ] && [ ! -e private/ca.crt ] && [ ! -e private/ca.key ]; then make_ca; fi

# What is no longer to be kept loses its guard, which is nothing in AWS; else Terraform refuses the plan.
guards=$(terraform state list 2>/dev/null | grep '\.terraform_data\.kept\[' || true)
if [ -n "$guards" ] && [ "$at_destroy" != keep ] && [ -n "$at_destroy" ]; then
    say "data_volume.at_destroy is not \"keep\" any more: the volumes stay, and lose their guard against a destroy."
    forget "$guards"
fi

terraform plan -input=false -out="$plan" "$@"
confirm 'Apply that?'
forgotten
apply

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
