#!/bin/sh
# From an AWS account to a healthy etcd cluster, with terraform/init: checks its tools, plans, shows, asks, applies, waits
# until every member is healthy, and prints the endpoints.
#   scripts/run.sh [--yes] [terraform's own arguments, as -var shape=group]
#   scripts/run.sh --roll [--yes] [the same arguments]       then replaces the members of shape fixed, one after the other
#   scripts/run.sh --destroy [--yes] [the same arguments]
# A plan that would take two members away at once is refused; members that are to go for good leave first, one after the other
# (--left: they have left already). --yes doesn't ask. Data volumes with at_destroy = "keep" stay, and so does a bucket for snapshots; they are named.
set -eu
cd "$(dirname "$0")/../terraform/init"

HEALTHY_WITHIN=1200 # seconds; machines boot in one to three minutes, a bootstrap waits up to one more
REFRESH_MOVES_WITHIN=3600 # seconds; the hooks give a launch half an hour, and what ends then begins anew

GUARDS='\.terraform_data\.kept\[\|\.aws_ebs_volume\.kept\[' # of volumes to be kept, in Terraform's state

say() { printf '%s\n' "$*" >&2; }
fail() { say "run.sh: $*"; exit 1; }

sure=no destroy=no roll=no left=no
while [ $# -gt 0 ]; do
    case $1 in
    --yes) sure=yes ;;
    --destroy) destroy=yes ;;
    --roll) roll=yes ;;
    --left) left=yes ;;
    --help) sed -n '2,8s/^# \{0,1\}//p' "../../scripts/run.sh"; exit 0 ;;
    --) shift; break ;;
    --*) fail "there is no $1: --yes, --roll, --left, --destroy, and arguments of terraform plan" ;;
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
    { printf '%s' "$expression" | tr '\n' ' '; echo; } | terraform console "$@" 2>/dev/null | sed -n 's/^"\(.*\)"$/\1/p'
)

# Nothing is said if a variable is wrong: the plan does that at length.
told=$(ask 'join("|", [
    var.region,
    var.tls,
    var.data_volume.at_destroy == null ? "-" : var.data_volume.at_destroy,
    var.ami_id == null ? "" : var.ami_id,
    join(" ", length(var.addresses) > 0 ? keys(var.addresses) : [for i in range(var.instance_count) : tostring(i)]),
    join(" ", distinct([for place in concat(var.binaries[*].source, [
        for place in [var.tls_files, var.claim, try(var.snapshots.place, null), try(var.image.archive.source, null)] : place == null ? "-" : place
    ]) : split("/", trimprefix(place, "s3://"))[0] if startswith(place, "s3://")]))
])' "$@") || true
IFS='|' read -r region tls at_destroy image nodes buckets <<END
$told
END
who=$(aws sts get-caller-identity ${region:+--region "$region"} --query '[Account, Arn]' --output text 2>&1) ||
    fail "AWS doesn't know you${region:+ in $region}: $(printf '%s\n' "$who" | sed -n '/./{p;q;}'); \
log in (aws sso login), export AWS_PROFILE=NAME (see terraform/init/aws_credentials.tf), or correct the variable region"
say "Account $(printf '%s\n' "$who" | tr '\t' ' ')${region:+, region $region}"

# What Terraform would learn in the midst of an apply, or a machine at its boot. What may not be asked is not known to be wrong.
check_places() {
    for bucket in $buckets; do
        found=$(aws s3api head-bucket --region "$region" --bucket "$bucket" --query BucketRegion --output text 2>&1) || case $found in
        *'(404)'*) fail "there is no bucket $bucket: nothing is changed; make it in $region, or correct the variable that names it" ;;
        *) continue ;;
        esac
        case $found in
        "$region" | None | '') ;;
        *) fail "the bucket $bucket is in $found, and the members fetch from $region only: nothing is changed; give one in $region" ;;
        esac
    done
    [ -n "$image" ] || return 0
    found=$(aws ec2 describe-images --region "$region" --image-ids "$image" --query 'Images[].State' --output text 2>&1) || case $found in
    *InvalidAMIID*) found='' ;;
    *) return 0 ;;
    esac
    [ "$found" = available ] ||
        fail "there is no image $image in $region${found:+ (it is $found)}: nothing is changed; give another ami_id, or null for the publisher's latest"
}
[ "$destroy" = yes ] || [ -z "$region" ] || check_places

# Terraform waits for what it is doing, and saves what it has done; then it is our turn.
apply() {
    trap 'cut=yes' INT TERM
    cut=no
    terraform apply -input=false "$plan" && [ "$cut" = no ] && { trap 'exit 130' INT TERM; return; }
    fail "the apply ended early: what was made is in Terraform's state, but for what it was cut off from, as named above; \
run me again to go on, or with --destroy to take it away"
}

output() { # NAME; where there is none, Terraform says so at length, with exit 0
    value=$(terraform output -raw "$1" 2>/dev/null) || return 0
    case $value in *[[:space:]]*) ;; *) printf '%s' "$value" ;; esac
}
of() { terraform output -json "$1" | tr ',{}' '\n' | sed -n "s/^\"$2\":\"\(.*\)\"\$/\1/p"; } # OUTPUT NODE: its value for that node
instance() { of instance_ids "$1"; }

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
    volumes='' applied=$(output at_destroy)
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

# What is no longer to be kept loses its guard, which is nothing in AWS; else Terraform refuses the plan. Where it is to be kept, and its
# member is to go, Terraform forgets the volume as well.
guards=$(terraform state list 2>/dev/null | grep '\.terraform_data\.kept\[' || true)
if [ -n "$guards" ] && [ "$at_destroy" != keep ] && [ -n "$at_destroy" ]; then
    say "data_volume.at_destroy is not \"keep\" any more: the volumes stay, and lose their guard against a destroy."
    forget "$guards"
elif [ -n "$guards" ]; then
    going=''
    for node in $(printf '%s\n' "$guards" | sed 's/.*\["\(.*\)"\]$/\1/'); do
        case " $nodes " in '  ' | *" $node "*) ;; *) going="$going $node" ;; esac
    done
    if [ -n "$going" ]; then
        say "These data volumes stay, and Terraform forgets them:$(for node in $going; do printf ' %s' "$(of data_volume_ids "$node")"; done)"
        forget "$(for node in $going; do
            printf 'module.instance_etcd.%s["%s"]\n' terraform_data.kept "$node" aws_ebs_volume.data "$node"
        done)"
    fi
fi


# What the plan does to the members: terraform/judge, asked by terraform console, as nothing else here reads JSON.
judge() {
    told=$(mktemp)
    terraform show -json "$plan" >"$told"
    verdict=$(printf 'local.verdict\n' | terraform -chdir=../judge console -var "plan=$told" 2>/dev/null | sed -n 's/^"\(.*\)"$/\1/p')
    rm -f "$told"
    [ -n "$verdict" ] || fail "what the plan does to the members can't be read, so it isn't applied (terraform/judge, local.verdict)"
}

# Target and state of each, a line; all is healthy that is a voter and has a quorum (/readyz).
targets() {
    aws elbv2 describe-target-health --region "$(output region)" --target-group-arn "$(output target_group_arn)" \
        --query 'TargetHealthDescriptions[].[Target.Id,TargetHealth.State]' --output text
}
healthy() { targets | grep -c '[[:space:]]healthy$' || true; }

wait_healthy() { # HOW_MANY
    say "Waiting for $1 healthy members …"
    began=$(date +%s) seen=
    until now=$(healthy) && [ "$now" -ge "$1" ]; do
        [ "$now" = "$seen" ] || say "$now of $1 members are healthy"
        seen=$now
        [ $(($(date +%s) - began)) -lt "$HEALTHY_WITHIN" ] || fail "only $now of $1 members are healthy after $HEALTHY_WITHIN s; a member says why in: journalctl -u etcd"
        sleep 2
    done
    say "$1 of $1 members are healthy"
}

# A member that is in health is taken away only from a cluster in which all are: a voter more or less is then no quorum lost.
bears_the_loss_of() { # NODE
    [ -n "$(output target_group_arn)" ] || { say 'There is no load balancer to ask whether the other members are healthy.'; return; }
    id=$(instance "$1") states=$(targets)
    printf '%s\n' "$states" | grep -q "^${id}[[:space:]]healthy$" || return 0
    [ "$(healthy)" -ge "$(output size)" ] ||
        fail "member $1 is healthy and not all of the others are, so it is not taken away: mend those first; the balancer says: \
$(printf '%s' "$states" | tr '\t\n' ' ,')"
}

# By etcd-muster itself, which refuses if the others would be no healthy quorum.
leave() { # NODE
    id=$(instance "$1")
    say "Member $1 ($id) leaves the cluster …"
    said=$(aws ssm start-session --region "$(output region)" --target "$id" --document-name AWS-StartInteractiveCommand \
        --parameters 'command=sudo /opt/etcd/bin/node-muster leave' 2>&1) || said="$said, exit $?"
    say "$said"
    case $said in *'node-muster: exit 0'*) ;; *) fail "member $1 did not leave, so its machine stays: run etcd-muster leave on it, \
or wait for what it names; once it has left, run me with --left" ;; esac
}

# To so many members, one at a time; the launch template changes afterwards, so that no refresh takes one more.
scale_in() { # HOW_MANY_FEWER
    group=$(output group_name) size=$(output size) goal=$(($(output size) - $1))
    while [ "$size" -gt "$goal" ]; do
        size=$((size - 1))
        say "The group goes to $size members …"
        aws autoscaling update-auto-scaling-group --region "$(output region)" --auto-scaling-group-name "$group" \
            --min-size "$size" --desired-capacity "$size"
        began=$(date +%s)
        # Who is to end is held by the terminate hook until it has left.
        until [ "$(aws autoscaling describe-auto-scaling-groups --region "$(output region)" --auto-scaling-group-names "$group" \
            --query 'AutoScalingGroups[0].Instances[].LifecycleState' --output text | wc -w)" -le "$size" ]; do
            [ $(($(date +%s) - began)) -lt "$HEALTHY_WITHIN" ] || fail "the group has more than $size instances after $HEALTHY_WITHIN s: \
see its activities; run me again to go on"
            sleep 2
        done
        [ -z "$(output target_group_arn)" ] || wait_healthy "$size"
    done
}

# The apply ends when a refresh has only begun (hashicorp/terraform-provider-aws#42355): its end is AWS's to say. States as in
# docs.aws.amazon.com/autoscaling/ec2/APIReference/API_InstanceRefresh.html.
newest_refresh() {
    aws autoscaling describe-instance-refreshes --region "$(output region)" --auto-scaling-group-name "$(output group_name)" --max-records 1 \
        --query 'InstanceRefreshes[0].[InstanceRefreshId,Status,PercentageComplete,StatusReason]' --output text | tr '\t' ' '
}
follow_refresh() { # THE_NEWEST_BEFORE
    told='' moved=$(date +%s)
    while now=$(newest_refresh) || fail "what became of the instance refresh of $(output group_name) can't be asked: it goes on by itself"; do
        [ "${now%% *}" != "$1" ] || return 0
        [ "$now" = "$told" ] || { say "Instance refresh: ${now#* }" && moved=$(date +%s); }
        told=$now now=${now#* }
        case $now in
        Successful*) return 0 ;;
        Pending* | InProgress* | Cancelling* | Baking* | RollbackInProgress*) ;;
        *) fail "the instance refresh of $(output group_name) ended as $now: members that were not exchanged run as before; \
mend the cause, and run me again, or aws autoscaling start-instance-refresh --auto-scaling-group-name $(output group_name)" ;;
        esac
        [ $(($(date +%s) - moved)) -lt "$REFRESH_MOVES_WITHIN" ] || fail "the instance refresh of $(output group_name) has not moved for \
$REFRESH_MOVES_WITHIN s (${told#* }); it goes on by itself: aws autoscaling describe-instance-refreshes, and on the new member: journalctl -u etcd"
        sleep 2
    done
}

all() { printf '%s' "$1" | sed 's/ /, /g'; }

terraform plan -input=false -out="$plan" "$@"
judge
about=${verdict#* }
case $verdict in
none) ;;
foreign*) fail "the plan would end what this module did not make or no longer knows ($(all "$about")), as with the state of an older \
version: nothing is changed; take it out of the state (terraform state rm), or work with a state of its own" ;;
group) fail "the plan would end the Auto Scaling group with all its members: nothing is changed; set the variable back, or --destroy first" ;;
network*) fail "the plan would make networks anew in which members are ($(all "$about")): nothing is changed; set the variable back, \
or move to new machines as docs/migrating.md says" ;;
shrunk*) fail "data_volume.size is less than the volumes of $(all "$about") have, and EBS volumes only grow: nothing is changed; set it back" ;;
emptied*) fail "the plan would make the data volumes of $(all "$about") anew at once: nothing is changed; do it for one, and wait until it is healthy" ;;
mixed*) fail "the plan would take members away for good ($(all "$about")) and exchange others at once: nothing is changed; \
first only the one, then the other" ;;
away\ *\ *) fail "the plan would take members $(all "$about") away at once: nothing is changed; give no -replace, and run me with --roll" ;;
away*) bears_the_loss_of "$about" ;;
leaving*) [ "$left" = yes ] || [ -n "$(instance "${about%% *}")" ] ||
    fail "the members that are to go ($(all "$about")) are not in Terraform's outputs, so nobody can tell them to leave: nothing is changed" ;;
esac
confirm 'Apply that?'
case $verdict in
leaving*)
    if [ "$left" = no ]; then
        for node in $about; do leave "$node"; done
    fi
    ;;
fewer*)
    scale_in "$about"
    terraform plan -input=false -out="$plan" "$@" -refresh=true
    judge
    [ "$verdict" = none ] || fail "the plan is another one than before (now: $verdict): run me again"
    ;;
esac
forgotten
group=$(output group_name) last=
if [ -n "$group" ]; then
    last=$(newest_refresh) || fail 'the refreshes of the group can not be asked for (autoscaling:DescribeInstanceRefreshes): nothing is changed'
fi
apply
[ -z "$group" ] || follow_refresh "${last%% *}"

if [ -z "$(output target_group_arn)" ]; then
    say 'There is no load balancer to ask whether the members are healthy.'
else
    wait_healthy "$(output size)"
fi

if [ "$roll" = yes ]; then
    nodes=$(terraform output -json instance_ids | tr ',{}' '\n' | sed -n 's/^"\(.*\)":.*/\1/p')
    [ -n "$nodes" ] || fail "--roll is for shape fixed; a group replaces its members by itself when something changed, \
or when told: aws autoscaling start-instance-refresh --auto-scaling-group-name $(output group_name)"
    [ -n "$(output target_group_arn)" ] || fail "--roll needs the load balancer, which tells when a member is healthy again: \
without it replace one by one, by -replace, and see to their health between"
    confirm "Replace the machines of $(all "$(printf '%s' "$nodes" | tr '\n' ' ')"), one after the other?"
    for node in $nodes; do
        bears_the_loss_of "$node"
        at="module.instance_etcd.aws_instance.node[\"$node\"]"
        terraform plan -input=false -out="$plan" "$@" "-replace=$at" "-target=$at" \
            "-target=module.instance_etcd.aws_volume_attachment.data[\"$node\"]" \
            "-target=module.instance_etcd.aws_lb_target_group_attachment.node[\"$node\"]"
        judge
        [ "$verdict" = "away $node" ] || fail "the plan for member $node is about more than its machine ($verdict): nothing more is changed"
        apply
        wait_healthy "$(output size)"
    done
fi

terraform output
