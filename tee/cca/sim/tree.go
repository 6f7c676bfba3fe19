package sim

import (
	"encoding/binary"
	"strconv"
	"strings"
)

// node is a node of a device tree.
type node struct {
	name  string
	props []prop
	nodes []node
}

type prop struct {
	name  string
	value []byte
}

func cells(v ...uint32) (b []byte) {
	for _, x := range v {
		b = binary.BigEndian.AppendUint32(b, x)
	}
	return b
}

func wide(v ...uint64) (b []byte) {
	for _, x := range v {
		b = binary.BigEndian.AppendUint64(b, x)
	}
	return b
}

func str(s string) []byte { return append([]byte(s), 0) }

// deviceTree tells the realm what is not in its memory otherwise.
func deviceTree(in *Inputs, initrdAt, memory uint64) []byte {
	chosen := node{name: "chosen", props: []prop{{"bootargs", str(in.Cmdline)}}}
	if n := len(in.Initrd); n > 0 {
		chosen.props = append(chosen.props, prop{"linux,initrd-start", wide(initrdAt)}, prop{"linux,initrd-end", wide(initrdAt + uint64(n))})
	}
	cpus := node{name: "cpus", props: []prop{{"#address-cells", cells(1)}, {"#size-cells", cells(0)}}}
	for i := range in.VCPUs {
		cpus.nodes = append(cpus.nodes, node{name: "cpu@" + strconv.FormatInt(int64(i), 16), props: []prop{{"device_type", str("cpu")}, {"reg", cells(uint32(i))}}})
	}
	root := node{
		props: []prop{{"compatible", str("coffer,cca-sim")}, {"#address-cells", cells(2)}, {"#size-cells", cells(2)}},
		nodes: []node{chosen, {name: "memory@40000000", props: []prop{{"device_type", str("memory")}, {"reg", wide(ram, memory)}}}, cpus},
	}
	var names strings.Builder
	body := append(root.flatten(nil, &names), cells(9)...)
	out := cells(0xd00dfeed, uint32(56+len(body)+names.Len()), 56, uint32(56+len(body)), 40, 17, 16, 0, uint32(names.Len()), uint32(len(body)))
	out = append(out, make([]byte, 16)...)
	return append(append(out, body...), names.String()...)
}

func (n *node) flatten(out []byte, names *strings.Builder) []byte {
	out = align(append(append(out, cells(1)...), str(n.name)...))
	for _, p := range n.props {
		// A name is in the strings block once, and no name here is the end of another.
		at := strings.Index("\x00"+names.String(), "\x00"+p.name+"\x00")
		if at < 0 {
			at = names.Len()
			names.WriteString(p.name + "\x00")
		}
		out = append(out, cells(3, uint32(len(p.value)), uint32(at))...)
		out = align(append(out, p.value...))
	}
	for i := range n.nodes {
		out = n.nodes[i].flatten(out, names)
	}
	return append(out, cells(2)...)
}

func align(b []byte) []byte { return append(b, make([]byte, (4-len(b)%4)%4)...) }
