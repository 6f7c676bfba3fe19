package pod

import (
	"fmt"
	"strings"
)

// State is what Coffer does with a field of a manifest.
type State string

// States of a field. A field that the table does not list is refused.
const (
	Supported State = "supported"
	Ignored   State = "ignored" // accepted without effect; Parse notes it
	Refused   State = "refused"
	// Cluster is what a kubelet or the cluster's network does: a pod that is sealed
	// may have it, coffer run refuses it.
	Cluster State = "cluster"
)

// Field is a row of the support table.
type Field struct {
	// Path in the manifest, "[]" for any item of a list or map. What stands
	// under spec.containers[] holds for spec.initContainers[] too.
	Path   string
	State  State
	Reason string // why not, or what to know
}

// Reasons that several fields share.
const (
	leavesTEE  = "leaves the TEE"
	kubelet    = "the kubelet's work: run this pod on Kubernetes with Coffer's runtime class"
	scheduling = "scheduling is the cluster's work"
	byServer   = "set by the API server"
	notYet     = "not supported yet"
	hostFS     = "the guest shares no file system with the host"
	oneMachine = "there is no cluster behind coffer run"
)

// Fields is the whole support table, in the manifest's order.
var Fields = []Field{
	{"apiVersion", Supported, ""},
	{"kind", Supported, ""},
	{"status", Ignored, byServer},
	{"metadata", Supported, ""},
	{"metadata.name", Supported, ""},
	{"metadata.namespace", Supported, "a name only; default is \"default\", which coffer seal notes where the pod reads it"},
	{"metadata.labels", Supported, "for fieldRef and downwardAPI; since Kubernetes 1.35 a cluster adds the node's `topology.kubernetes.io/zone` and `region`, where it has them"},
	{"metadata.annotations", Supported, "for fieldRef and downwardAPI, single ones; all as a file with coffer run only, since a kubelet adds to them"},
	{"metadata.generateName", Refused, "the API server makes such names: set metadata.name"},
	{"metadata.uid", Supported, "for fieldRef"},
	{"metadata.resourceVersion", Ignored, byServer},
	{"metadata.generation", Ignored, byServer},
	{"metadata.creationTimestamp", Ignored, byServer},
	{"metadata.deletionTimestamp", Refused, "the pod is being deleted"},
	{"metadata.deletionGracePeriodSeconds", Refused, "the pod is being deleted"},
	{"metadata.managedFields", Ignored, byServer},
	{"metadata.selfLink", Ignored, byServer},
	{"metadata.ownerReferences", Ignored, oneMachine},
	{"metadata.finalizers", Ignored, oneMachine},

	{"spec", Supported, ""},
	{"spec.restartPolicy", Supported, "Always, OnFailure, Never"},
	{"spec.terminationGracePeriodSeconds", Supported, ""},
	{"spec.activeDeadlineSeconds", Cluster, "the kubelet's work"},
	{"spec.hostname", Supported, ""},
	{"spec.hostnameOverride", Refused, notYet},
	{"spec.subdomain", Supported, "for the cluster's DNS alone: the guest's hosts file has the short name"},
	{"spec.setHostnameAsFQDN", Refused, notYet},
	{"spec.dnsPolicy", Ignored, "name servers are the network's that the guest is given"},
	{"spec.dnsConfig", Cluster, "name servers, search domains and options, by their fixed grammar"},
	{"spec.hostAliases", Supported, "in the policy"},
	{"spec.hostAliases[].ip", Supported, ""},
	{"spec.hostAliases[].hostnames", Supported, ""},
	{"spec.hostNetwork", Refused, leavesTEE},
	{"spec.hostPID", Refused, leavesTEE},
	{"spec.hostIPC", Refused, leavesTEE},
	{"spec.hostUsers", Ignored, "no container shares users with the host"},
	{"spec.shareProcessNamespace", Supported, "the first process of the namespace is the guest's"},
	{"spec.enableServiceLinks", Supported, "a kubelet may add variables of services, by their fixed grammar; coffer run has none"},
	{"spec.serviceAccountName", Supported, "the token is the cluster's to give; coffer run has none"},
	{"spec.serviceAccount", Supported, "as serviceAccountName"},
	{"spec.automountServiceAccountToken", Supported, "unless false, the cluster may put token, authorities and namespace, each of a fixed grammar, at the usual place"},
	{"spec.imagePullSecrets", Refused, "credentials in the manifest would be shown to the host: put them into the trustee"},
	{"spec.nodeName", Ignored, scheduling},
	{"spec.nodeSelector", Ignored, scheduling},
	{"spec.affinity", Ignored, scheduling},
	{"spec.tolerations", Ignored, scheduling},
	{"spec.schedulerName", Ignored, scheduling},
	{"spec.schedulingGates", Refused, scheduling},
	{"spec.schedulingGroup", Ignored, scheduling},
	{"spec.evictionResponders", Ignored, oneMachine},
	{"spec.priority", Ignored, scheduling},
	{"spec.priorityClassName", Ignored, scheduling},
	{"spec.preemptionPolicy", Ignored, scheduling},
	{"spec.topologySpreadConstraints", Ignored, scheduling},
	{"spec.runtimeClassName", Supported, "the cluster's; coffer run is a runtime itself"},
	{"spec.overhead", Ignored, scheduling},
	{"spec.readinessGates", Cluster, "the kubelet's work"},
	{"spec.os", Supported, ""},
	{"spec.os.name", Supported, "linux"},
	{"spec.resources", Refused, "set the containers' resources instead"},
	{"spec.resourceClaims", Refused, "devices of the node"},
	{"spec.ephemeralContainers", Refused, "added to running pods only; use coffer exec"},

	{"spec.securityContext", Supported, ""},
	{"spec.securityContext.runAsUser", Supported, ""},
	{"spec.securityContext.runAsGroup", Supported, ""},
	{"spec.securityContext.runAsNonRoot", Supported, "checked in the guest on the resolved user"},
	{"spec.securityContext.supplementalGroups", Supported, ""},
	{"spec.securityContext.supplementalGroupsPolicy", Supported, "Merge"},
	{"spec.securityContext.fsGroup", Supported, ""},
	{"spec.securityContext.fsGroupChangePolicy", Supported, "volumes are new in every run"},
	{"spec.securityContext.seccompProfile", Supported, ""},
	{"spec.securityContext.seccompProfile.type", Supported, "RuntimeDefault, Unconfined"},
	{"spec.securityContext.seccompProfile.localhostProfile", Refused, "a file of the node"},
	{"spec.securityContext.sysctls", Supported, ""},
	{"spec.securityContext.sysctls[].name", Supported, "the safe set of Kubernetes"},
	{"spec.securityContext.sysctls[].value", Supported, ""},
	{"spec.securityContext.appArmorProfile", Supported, ""},
	{"spec.securityContext.appArmorProfile.type", Supported, "Unconfined: the guest kernel runs without AppArmor"},
	{"spec.securityContext.seLinuxOptions", Refused, "the guest kernel runs without SELinux"},
	{"spec.securityContext.seLinuxChangePolicy", Ignored, "the guest kernel runs without SELinux"},
	{"spec.securityContext.windowsOptions", Refused, "containers are Linux containers"},

	{"spec.initContainers", Supported, "before all others, one by one"},
	{"spec.containers", Supported, ""},
	{"spec.containers[].name", Supported, ""},
	{"spec.containers[].image", Supported, "resolved to a digest; the guest pulls that"},
	{"spec.containers[].imagePullPolicy", Ignored, "the guest always pulls, by digest"},
	{"spec.containers[].command", Supported, "with $(VAR), but for the cluster's words and the variables of services"},
	{"spec.containers[].args", Supported, "with $(VAR), but for the cluster's words and the variables of services"},
	{"spec.containers[].workingDir", Supported, ""},
	{"spec.containers[].ports", Supported, "published with --publish"},
	{"spec.containers[].ports[].name", Supported, ""},
	{"spec.containers[].ports[].containerPort", Supported, ""},
	{"spec.containers[].ports[].protocol", Supported, "TCP, UDP"},
	{"spec.containers[].ports[].hostPort", Cluster, "the cluster's network does it; with coffer run: --publish"},
	{"spec.containers[].ports[].hostIP", Cluster, "the cluster's network does it; with coffer run: --publish"},
	{"spec.containers[].env", Supported, "with $(VAR), but for the cluster's words and the variables of services"},
	{"spec.containers[].env[].name", Supported, ""},
	{"spec.containers[].env[].value", Supported, ""},
	{"spec.containers[].env[].valueFrom", Supported, ""},
	{"spec.containers[].env[].valueFrom.configMapKeyRef", Supported, ""},
	{"spec.containers[].env[].valueFrom.configMapKeyRef.name", Supported, ""},
	{"spec.containers[].env[].valueFrom.configMapKeyRef.key", Supported, ""},
	{"spec.containers[].env[].valueFrom.configMapKeyRef.optional", Supported, ""},
	{"spec.containers[].env[].valueFrom.secretKeyRef", Supported, "the policy carries the value's hash"},
	{"spec.containers[].env[].valueFrom.secretKeyRef.name", Supported, ""},
	{"spec.containers[].env[].valueFrom.secretKeyRef.key", Supported, ""},
	{"spec.containers[].env[].valueFrom.secretKeyRef.optional", Supported, ""},
	{"spec.containers[].env[].valueFrom.fieldRef", Supported, ""},
	{"spec.containers[].env[].valueFrom.fieldRef.apiVersion", Supported, "v1"},
	{"spec.containers[].env[].valueFrom.fieldRef.fieldPath", Supported, "metadata.name, .namespace, .uid, .labels['k'] (but for the node's zone and region), .annotations['k'], spec.serviceAccountName; on a cluster also status.podIP(s), status.hostIP(s), spec.nodeName and a uid that the manifest does not set, by their fixed grammar"},
	{"spec.containers[].env[].valueFrom.resourceFieldRef", Supported, ""},
	{"spec.containers[].env[].valueFrom.resourceFieldRef.containerName", Supported, ""},
	{"spec.containers[].env[].valueFrom.resourceFieldRef.resource", Supported, "cpu and memory that the manifest sets"},
	{"spec.containers[].env[].valueFrom.resourceFieldRef.divisor", Supported, ""},
	{"spec.containers[].env[].valueFrom.fileKeyRef", Refused, notYet},
	{"spec.containers[].envFrom", Supported, ""},
	{"spec.containers[].envFrom[].prefix", Supported, ""},
	{"spec.containers[].envFrom[].configMapRef", Supported, ""},
	{"spec.containers[].envFrom[].configMapRef.name", Supported, ""},
	{"spec.containers[].envFrom[].configMapRef.optional", Supported, ""},
	{"spec.containers[].envFrom[].secretRef", Supported, "the policy carries the values' hashes"},
	{"spec.containers[].envFrom[].secretRef.name", Supported, ""},
	{"spec.containers[].envFrom[].secretRef.optional", Supported, ""},
	{"spec.containers[].resources", Supported, ""},
	{"spec.containers[].resources.limits", Supported, "cpu and memory: cgroup limits and the VM's size; on a cluster also devices of the node, which attest if they are sealed to"},
	{"spec.containers[].resources.requests", Supported, "cpu and memory: CPU shares and the VM's size"},
	{"spec.containers[].resources.claims", Refused, "devices of the node"},
	{"spec.containers[].resizePolicy", Refused, kubelet},
	{"spec.containers[].restartPolicy", Cluster, "Always, of an init container: a sidecar"},
	{"spec.containers[].restartPolicyRules", Refused, kubelet},
	{"spec.containers[].volumeMounts", Supported, ""},
	{"spec.containers[].volumeMounts[].name", Supported, ""},
	{"spec.containers[].volumeMounts[].mountPath", Supported, ""},
	{"spec.containers[].volumeMounts[].readOnly", Supported, "always for configMap, secret, projected, downwardAPI"},
	{"spec.containers[].volumeMounts[].subPath", Supported, ""},
	{"spec.containers[].volumeMounts[].subPathExpr", Supported, "with $(VAR), as command"},
	{"spec.containers[].volumeMounts[].mountPropagation", Supported, "None"},
	{"spec.containers[].volumeMounts[].recursiveReadOnly", Supported, "Disabled, IfPossible"},
	{"spec.containers[].volumeDevices", Supported, "of a persistentVolumeClaim, encrypted ([volumes.md](volumes.md#block-volumes)); read-only where the claim is; not of a process TEE"},
	{"spec.containers[].volumeDevices[].name", Supported, ""},
	{"spec.containers[].volumeDevices[].devicePath", Supported, "where neither the image nor a volume has anything"},
	{"spec.containers[].livenessProbe", Cluster, "an exec command goes into the policy, with $(VAR) of env[].value as a kubelet expands it"},
	{"spec.containers[].readinessProbe", Cluster, "an exec command goes into the policy, with $(VAR) of env[].value as a kubelet expands it"},
	{"spec.containers[].startupProbe", Cluster, "an exec command goes into the policy, with $(VAR) of env[].value as a kubelet expands it"},
	{"spec.containers[].lifecycle", Cluster, "an exec command goes into the policy as it is written; no stopSignal"},
	{"spec.containers[].terminationMessagePath", Supported, "not in a volume, the image's included"},
	{"spec.containers[].terminationMessagePolicy", Supported, "the kubelet's"},
	{"spec.containers[].stdin", Supported, ""},
	{"spec.containers[].stdinOnce", Supported, "input is given once in any case"},
	{"spec.containers[].tty", Supported, ""},
	{"spec.containers[].securityContext", Supported, ""},
	{"spec.containers[].securityContext.capabilities", Supported, ""},
	{"spec.containers[].securityContext.capabilities.add", Supported, ""},
	{"spec.containers[].securityContext.capabilities.drop", Supported, ""},
	{"spec.containers[].securityContext.privileged", Refused, "a privileged container could change the guest that holds it: add the capabilities it needs"},
	{"spec.containers[].securityContext.runAsUser", Supported, ""},
	{"spec.containers[].securityContext.runAsGroup", Supported, ""},
	{"spec.containers[].securityContext.runAsNonRoot", Supported, "checked in the guest on the resolved user"},
	{"spec.containers[].securityContext.readOnlyRootFilesystem", Supported, ""},
	{"spec.containers[].securityContext.allowPrivilegeEscalation", Supported, "false sets no_new_privs"},
	{"spec.containers[].securityContext.procMount", Supported, "Default"},
	{"spec.containers[].securityContext.seccompProfile", Supported, ""},
	{"spec.containers[].securityContext.seccompProfile.type", Supported, "RuntimeDefault, Unconfined"},
	{"spec.containers[].securityContext.seccompProfile.localhostProfile", Refused, "a file of the node"},
	{"spec.containers[].securityContext.appArmorProfile", Supported, ""},
	{"spec.containers[].securityContext.appArmorProfile.type", Supported, "Unconfined: the guest kernel runs without AppArmor"},
	{"spec.containers[].securityContext.seLinuxOptions", Refused, "the guest kernel runs without SELinux"},
	{"spec.containers[].securityContext.windowsOptions", Refused, "containers are Linux containers"},

	{"spec.volumes", Supported, ""},
	{"spec.volumes[].name", Supported, ""},
	{"spec.volumes[].configMap", Supported, "each file by its hash in the policy"},
	{"spec.volumes[].configMap.name", Supported, ""},
	{"spec.volumes[].configMap.items", Supported, ""},
	{"spec.volumes[].configMap.items[].key", Supported, ""},
	{"spec.volumes[].configMap.items[].path", Supported, ""},
	{"spec.volumes[].configMap.items[].mode", Supported, ""},
	{"spec.volumes[].configMap.defaultMode", Supported, ""},
	{"spec.volumes[].configMap.optional", Supported, ""},
	{"spec.volumes[].secret", Supported, "each file by its hash in the policy; the host sees the content"},
	{"spec.volumes[].secret.secretName", Supported, ""},
	{"spec.volumes[].secret.items", Supported, ""},
	{"spec.volumes[].secret.items[].key", Supported, ""},
	{"spec.volumes[].secret.items[].path", Supported, ""},
	{"spec.volumes[].secret.items[].mode", Supported, ""},
	{"spec.volumes[].secret.defaultMode", Supported, ""},
	{"spec.volumes[].secret.optional", Supported, ""},
	{"spec.volumes[].emptyDir", Supported, "memory of the VM; on an encrypted disk: seal with `--volume-on-disk`"},
	{"spec.volumes[].emptyDir.medium", Supported, "\"\", Memory"},
	{"spec.volumes[].emptyDir.sizeLimit", Supported, ""},
	{"spec.volumes[].projected", Supported, ""},
	{"spec.volumes[].projected.defaultMode", Supported, ""},
	{"spec.volumes[].projected.sources", Supported, ""},
	{"spec.volumes[].projected.sources[].configMap", Supported, ""},
	{"spec.volumes[].projected.sources[].configMap.name", Supported, ""},
	{"spec.volumes[].projected.sources[].configMap.items", Supported, ""},
	{"spec.volumes[].projected.sources[].configMap.items[].key", Supported, ""},
	{"spec.volumes[].projected.sources[].configMap.items[].path", Supported, ""},
	{"spec.volumes[].projected.sources[].configMap.items[].mode", Supported, ""},
	{"spec.volumes[].projected.sources[].configMap.optional", Supported, ""},
	{"spec.volumes[].projected.sources[].secret", Supported, ""},
	{"spec.volumes[].projected.sources[].secret.name", Supported, ""},
	{"spec.volumes[].projected.sources[].secret.items", Supported, ""},
	{"spec.volumes[].projected.sources[].secret.items[].key", Supported, ""},
	{"spec.volumes[].projected.sources[].secret.items[].path", Supported, ""},
	{"spec.volumes[].projected.sources[].secret.items[].mode", Supported, ""},
	{"spec.volumes[].projected.sources[].secret.optional", Supported, ""},
	{"spec.volumes[].projected.sources[].downwardAPI", Supported, ""},
	{"spec.volumes[].projected.sources[].downwardAPI.items", Supported, ""},
	{"spec.volumes[].projected.sources[].downwardAPI.items[].path", Supported, ""},
	{"spec.volumes[].projected.sources[].downwardAPI.items[].mode", Supported, ""},
	{"spec.volumes[].projected.sources[].downwardAPI.items[].fieldRef", Supported, ""},
	{"spec.volumes[].projected.sources[].downwardAPI.items[].fieldRef.apiVersion", Supported, "v1"},
	{"spec.volumes[].projected.sources[].downwardAPI.items[].fieldRef.fieldPath", Supported, "as in env without the cluster's words, and metadata.labels; metadata.annotations with coffer run only"},
	{"spec.volumes[].projected.sources[].downwardAPI.items[].resourceFieldRef", Supported, ""},
	{"spec.volumes[].projected.sources[].downwardAPI.items[].resourceFieldRef.containerName", Supported, ""},
	{"spec.volumes[].projected.sources[].downwardAPI.items[].resourceFieldRef.resource", Supported, ""},
	{"spec.volumes[].projected.sources[].downwardAPI.items[].resourceFieldRef.divisor", Supported, ""},
	{"spec.volumes[].projected.sources[].serviceAccountToken", Refused, oneMachine},
	{"spec.volumes[].projected.sources[].clusterTrustBundle", Refused, oneMachine},
	{"spec.volumes[].projected.sources[].podCertificate", Refused, oneMachine},
	{"spec.volumes[].downwardAPI", Supported, ""},
	{"spec.volumes[].downwardAPI.defaultMode", Supported, ""},
	{"spec.volumes[].downwardAPI.items", Supported, ""},
	{"spec.volumes[].downwardAPI.items[].path", Supported, ""},
	{"spec.volumes[].downwardAPI.items[].mode", Supported, ""},
	{"spec.volumes[].downwardAPI.items[].fieldRef", Supported, ""},
	{"spec.volumes[].downwardAPI.items[].fieldRef.apiVersion", Supported, "v1"},
	{"spec.volumes[].downwardAPI.items[].fieldRef.fieldPath", Supported, "as in env without the cluster's words, and metadata.labels; metadata.annotations with coffer run only"},
	{"spec.volumes[].downwardAPI.items[].resourceFieldRef", Supported, ""},
	{"spec.volumes[].downwardAPI.items[].resourceFieldRef.containerName", Supported, ""},
	{"spec.volumes[].downwardAPI.items[].resourceFieldRef.resource", Supported, ""},
	{"spec.volumes[].downwardAPI.items[].resourceFieldRef.divisor", Supported, ""},
	{"spec.volumes[].hostPath", Refused, leavesTEE},
	{"spec.volumes[].persistentVolumeClaim", Supported, "encrypted, on a disk: seal with `--volume-key` ([volumes.md](volumes.md))"},
	{"spec.volumes[].persistentVolumeClaim.claimName", Supported, ""},
	{"spec.volumes[].persistentVolumeClaim.readOnly", Supported, "in the pod's containers; the guest writes the disk's journal"},
	{"spec.volumes[].ephemeral", Refused, leavesTEE},
	{"spec.volumes[].csi", Refused, leavesTEE},
	{"spec.volumes[].nfs", Refused, leavesTEE},
	{"spec.volumes[].iscsi", Refused, leavesTEE},
	{"spec.volumes[].image", Refused, notYet},
	{"spec.volumes[].gitRepo", Refused, "removed from Kubernetes"},
	{"spec.volumes[].flexVolume", Refused, leavesTEE},
	{"spec.volumes[].fc", Refused, leavesTEE},
	{"spec.volumes[].rbd", Refused, leavesTEE},
	{"spec.volumes[].cephfs", Refused, leavesTEE},
	{"spec.volumes[].cinder", Refused, leavesTEE},
	{"spec.volumes[].glusterfs", Refused, leavesTEE},
	{"spec.volumes[].flocker", Refused, leavesTEE},
	{"spec.volumes[].quobyte", Refused, leavesTEE},
	{"spec.volumes[].portworxVolume", Refused, leavesTEE},
	{"spec.volumes[].scaleIO", Refused, leavesTEE},
	{"spec.volumes[].storageos", Refused, leavesTEE},
	{"spec.volumes[].vsphereVolume", Refused, leavesTEE},
	{"spec.volumes[].photonPersistentDisk", Refused, leavesTEE},
	{"spec.volumes[].awsElasticBlockStore", Refused, leavesTEE},
	{"spec.volumes[].azureDisk", Refused, leavesTEE},
	{"spec.volumes[].azureFile", Refused, leavesTEE},
	{"spec.volumes[].gcePersistentDisk", Refused, leavesTEE},

	{"ConfigMap.apiVersion", Supported, ""},
	{"ConfigMap.kind", Supported, ""},
	{"ConfigMap.metadata", Supported, ""},
	{"ConfigMap.data", Supported, ""},
	{"ConfigMap.binaryData", Supported, ""},
	{"ConfigMap.immutable", Ignored, "nothing changes it in any case"},
	{"Secret.apiVersion", Supported, ""},
	{"Secret.kind", Supported, ""},
	{"Secret.metadata", Supported, ""},
	{"Secret.data", Supported, ""},
	{"Secret.stringData", Supported, ""},
	{"Secret.type", Supported, "any"},
	{"Secret.immutable", Ignored, "nothing changes it in any case"},
}

var fieldIndex = func() map[string]*Field {
	m := make(map[string]*Field, len(Fields))
	for i := range Fields {
		m[Fields[i].Path] = &Fields[i]
	}
	return m
}()

// fieldFor finds the row of a path in the table's form.
func fieldFor(row string) (*Field, bool) {
	if rest, ok := strings.CutPrefix(row, "spec.initContainers[]"); ok {
		row = "spec.containers[]" + rest
	}
	for _, kind := range []string{"ConfigMap.", "Secret."} {
		if rest, ok := strings.CutPrefix(row, kind+"metadata."); ok {
			row = "metadata." + rest
		}
	}
	f, ok := fieldIndex[row]
	return f, ok
}

// SupportTable gives the table as Markdown, for docs/kubernetes.md.
func SupportTable() string {
	var b strings.Builder
	b.WriteString("| field | state | note |\n|---|---|---|\n")
	for _, f := range Fields {
		fmt.Fprintf(&b, "| `%s` | %s | %s |\n", f.Path, f.State, f.Reason)
	}
	b.WriteString("\nAny other field is an error. What stands under `spec.containers[]` holds for `spec.initContainers[]` too.\n")
	return b.String()
}
