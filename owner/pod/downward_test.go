package pod

import (
	"fmt"
	"strings"
	"testing"
)

// TestWhatAClusterChanges: annotations and labels that a cluster sets are not sealed,
// or with a note.
func TestWhatAClusterChanges(t *testing.T) {
	const zone, region = "topology.kubernetes.io/zone", "topology.kubernetes.io/region"
	file := func(field string) string {
		return withSpec("volumes: [{name: v, downwardAPI: {items: [{path: a/f, fieldRef: {fieldPath: \"" + field + "\"}}]}}]")
	}
	projected := func(field string) string {
		return withSpec("volumes: [{name: v, projected: {sources: [{downwardAPI: {items: [{path: f, fieldRef: {fieldPath: \"" + field + "\"}}]}}]}}]")
	}
	env := func(field string) string {
		return withContainer("env: [{name: A, valueFrom: {fieldRef: {fieldPath: \"" + field + "\"}}}]")
	}
	labelled := func(source, labels string) string {
		return strings.Replace(source, "{name: web}", "{name: web, namespace: default, labels: {"+labels+"}, annotations: {a/b: c, kubernetes.io/config.seen: x}}", 1)
	}
	const inFile, inProjected, inEnv = "spec.volumes[0].downwardAPI.items[0].fieldRef.fieldPath: ", "spec.volumes[0].projected.sources[0].downwardAPI.items[0].fieldRef.fieldPath: ", "spec.containers[0].env[0].valueFrom.fieldRef.fieldPath: "
	for _, c := range []struct {
		source, refused, note string
	}{
		{labelled(file("metadata.annotations"), "l: m"), inFile + "a kubelet adds to them: name single ones, metadata.annotations['KEY']", ""},
		{labelled(projected("metadata.annotations"), "l: m"), inProjected + "a kubelet adds to them", ""},
		{labelled(env("metadata.annotations['kubernetes.io/config.seen']"), "l: m"), inEnv + "annotation kubernetes.io/config.seen is set after the policy is written", ""},
		{labelled(file("metadata.annotations['kubernetes.io/config.source']"), "l: m"), inFile + "annotation kubernetes.io/config.source", ""},
		{labelled(env("metadata.annotations['io.katacontainers.config.hypervisor.cc_init_data']"), "l: m"), inEnv + "annotation io.katacontainers", ""},
		{labelled(env("metadata.labels['"+zone+"']"), "l: m"), inEnv + "since Kubernetes 1.35 a cluster takes the label " + zone + " from the node", ""},
		{labelled(file("metadata.labels['"+region+"']"), zone+": a"), inFile + "since Kubernetes 1.35 a cluster takes the label " + region, ""},
		{labelled(env("metadata.labels['"+zone+"']"), zone+": a"), "", inEnv + "since Kubernetes 1.35 a node that has the label " + zone + " overwrites"},
		{labelled(file("metadata.labels"), "l: m"), "", inFile + "since Kubernetes 1.35 a cluster adds zone and region"},

		{labelled(env("metadata.annotations['a/b']"), "l: m"), "", ""},
		{labelled(env("metadata.annotations['none']"), "l: m"), "", ""},
		{labelled(file("metadata.annotations['a/b']"), "l: m"), "", ""},
		{labelled(env("metadata.labels['l']"), "l: m"), "", ""},
		{labelled(env("metadata.labels['none']"), "l: m"), "", ""},
	} {
		p, err := Parse([]byte(c.source)) // which coffer run takes in any case
		if err != nil {
			t.Errorf("%v\nfor %s", err, c.source)
			continue
		}
		if len(p.Cluster) > 0 || len(p.Notes) > 0 {
			t.Errorf("%v %q", p.Cluster, p.Notes)
		}
		for _, x := range []struct {
			want string
			got  []string
		}{{c.refused, strs(p.Unsealable)}, {c.note, p.SealNotes}} {
			if (x.want == "") != (len(x.got) == 0) || len(x.got) > 1 || len(x.got) == 1 && !strings.HasPrefix(x.got[0], x.want) {
				t.Errorf("got %q\nwant %q\nfor %s", x.got, x.want, c.source)
			}
		}
	}
}

func strs[T fmt.Stringer](list []T) []string {
	var out []string
	for _, x := range list {
		out = append(out, x.String())
	}
	return out
}
