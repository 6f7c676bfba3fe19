package measure

import (
	"encoding/hex"
	"fmt"
	"testing"
)

// oracleTree is the device tree that the independent calculator
// veraison/cca-realm-measurements makes for QEMU's machine "virt".
func oracleTree(memory uint64, cpus int, pmu bool) []byte {
	const spi, ppi, edge, level, clock = 0, 1, 1, 4, 0x8000
	gic := uint32(0x8000 + cpus + 1)
	its := gic + 1
	var t tree
	t.begin("")
	t.text("compatible", "linux,dummy-virt")
	t.text("model", "linux,dummy-virt-realm")
	t.u32("#address-cells", 2)
	t.u32("#size-cells", 2)
	t.u32("interrupt-parent", gic)
	t.begin("chosen")
	t.end()
	t.begin("memory@40000000")
	t.text("device_type", "memory")
	t.u64("reg", 0x40000000, memory)
	t.end()
	t.begin("cpus")
	t.u32("#size-cells", 0)
	t.u32("#address-cells", 1)
	for i := range cpus {
		t.begin(fmt.Sprintf("cpu@%d", i))
		t.u32("reg", uint32(i))
		t.text("enable-method", "psci")
		t.text("compatible", "arm,armv8")
		t.text("device_type", "cpu")
		t.end()
	}
	t.end()
	t.begin("psci")
	t.u32("cpu_on", 0xc4000003)
	t.u32("cpu_off", 0x84000002)
	t.text("method", "smc")
	t.text("compatible", "arm,psci-1.0", "arm,psci-0.2", "arm,psci")
	t.end()

	t.begin("platform-bus@c000000")
	t.u32("interrupt-parent", gic)
	t.u32("ranges", 0, 0, 0xc000000, 0x2000000)
	t.u32("#address-cells", 1)
	t.u32("#size-cells", 1)
	t.text("compatible", "qemu,platform", "simple-bus")
	t.end()
	t.begin("fw-cfg@9020000")
	t.prop("dma-coherent", nil)
	t.u64("reg", 0x9020000, 0x18)
	t.text("compatible", "qemu,fw-cfg-mmio")
	t.end()
	for i := range uint64(32) {
		at := 0xa000000 + i*0x200
		t.begin(fmt.Sprintf("virtio_mmio@%x", at))
		t.prop("dma-coherent", nil)
		t.u32("interrupts", spi, 16+uint32(i), edge)
		t.u64("reg", at, 0x200)
		t.text("compatible", "virtio,mmio")
		t.end()
	}
	t.begin("pcie@10000000")
	var irqs []uint32
	for dev := range uint32(4) {
		for pin := range uint32(4) {
			irqs = append(irqs, dev<<3<<8, 0, 0, pin+1, gic, 0, 0, spi, 3+(pin+dev)%4, level)
		}
	}
	t.u32("interrupt-map", irqs...)
	t.u32("interrupt-map-mask", 3<<3<<8, 0, 0, 7)
	t.u32("#interrupt-cells", 1)
	t.u32("ranges",
		0x01000000, 0, 0, 0, 0x3eff0000, 0, 0x10000,
		0x02000000, 0, 0x10000000, 0, 0x10000000, 0, 0x2eff0000,
		0x03000000, 0x80, 0, 0x80, 0, 0x80, 0)
	t.u64("reg", 0x4010000000, 0x10000000)
	t.u32("msi-map", 0, its, 0, 0x10000)
	t.prop("dma-coherent", nil)
	t.u32("bus-range", 0, 0xff)
	t.u32("linux,pci-domain", 0)
	t.u32("#size-cells", 2)
	t.u32("#address-cells", 3)
	t.text("device_type", "pci")
	t.text("compatible", "pci-host-ecam-generic")
	t.end()
	t.begin("pl031@9010000")
	t.text("clock-names", "apb_pclk")
	t.u64("reg", 0x9010000, 0x1000)
	t.u32("clocks", clock)
	t.u32("interrupts", spi, 2, level)
	t.text("compatible", "arm,pl031", "arm,primecell")
	t.end()
	t.begin("pl011@9000000")
	t.text("clock-names", "uartclk", "apb_pclk")
	t.u64("reg", 0x9000000, 0x1000)
	t.u32("clocks", clock, clock)
	t.u32("interrupts", spi, 1, level)
	t.text("compatible", "arm,pl011", "arm,primecell")
	t.end()
	if pmu {
		t.begin("pmu")
		t.u32("interrupts", ppi, 7, level)
		t.text("compatible", "arm,armv8-pmuv3")
		t.end()
	}
	t.begin("intc@8000000")
	t.u32("phandle", gic)
	t.u64("reg", 0x8000000, 0x10000, 0x80a0000, 0xf60000)
	t.u32("#redistributor-regions", 1)
	t.text("compatible", "arm,gic-v3")
	t.prop("ranges", nil)
	t.u32("#size-cells", 2)
	t.u32("#address-cells", 2)
	t.prop("interrupt-controller", nil)
	t.u32("#interrupt-cells", 3)
	t.begin("its@8080000")
	t.u32("phandle", its)
	t.u64("reg", 0x8080000, 0x20000)
	t.u32("#msi-cells", 1)
	t.prop("msi-controller", nil)
	t.text("compatible", "arm,gic-v3-its")
	t.end()
	t.end()
	t.begin("timer")
	t.u32("interrupts", ppi, 13, level, ppi, 14, level, ppi, 11, level)
	t.prop("always-on", nil)
	t.text("compatible", "arm,armv8-timer", "arm,armv7-timer")
	t.end()
	t.begin("apb-pclk")
	t.u32("phandle", clock)
	t.text("clock-output-names", "clk24mhz")
	t.u32("clock-frequency", 24000000)
	t.u32("#clock-cells", 0)
	t.text("compatible", "fixed-clock")
	t.end()
	t.end()
	return t.blob()
}

// Values that the calculator's own tests (tests/cmdline.rs) expect for machines
// whose content is known: a device tree, or a tree and a firmware of ten bytes.
func TestAgainstIndependentCalculator(t *testing.T) {
	const qemu = 41 // bits that its memory map needs
	for name, c := range map[string]struct {
		p        Params
		memory   uint64
		cpus     int
		firmware string
		want     string
	}{
		"no arguments": {Params{IPABits: qemu, Breakpoints: 6, Watchpoints: 6, Hash: SHA512}, 128 << 20, 1, "", "cf409055d866eea6c8d5e7862b540ff1cac9b11f125d088587d5ae97a0e3341667cf8fb3983e7377bca5c01d037bd97081ebf3b4dcb648442149749f4d65eeb0"},
		"pmu":          {Params{IPABits: qemu, Breakpoints: 6, Watchpoints: 6, Hash: SHA512, Flags: FlagPMU, PMUCounters: 6}, 128 << 20, 1, "", "8120ef921a987a3f8b9d4bb5e40f8489e2b4fc69c5e1b17b1a9b040884a1211d99b2bddc3fddcc99ec99f4244743fe3dcd3d9020583b47f7b66a2ec66bb897b9"},
		"firmware":     {Params{IPABits: qemu, Breakpoints: 6, Watchpoints: 6, Hash: SHA256}, 1 << 30, 2, "FW CONTENT", "cbf533a94009dfa6b83016a89b428d1d910fb3593856bb386d7b2bd07a1bc834"},
	} {
		r, err := New(c.p)
		if err != nil {
			t.Fatal(err)
		}
		if err := r.RIPAS(memoryBase, memoryBase+c.memory); err != nil {
			t.Fatal(err)
		}
		pc, x0 := uint64(memoryBase), uint64(memoryBase)
		if c.firmware != "" {
			pc, x0 = 0, 0
			if err := r.Data(0, []byte(c.firmware)); err != nil {
				t.Fatal(err)
			}
		}
		if err := r.Data(memoryBase, oracleTree(c.memory, c.cpus, c.p.Flags&FlagPMU != 0)); err != nil {
			t.Fatal(err)
		}
		r.REC(pc, [8]uint64{x0})
		if got := hex.EncodeToString(r.Value()); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}
