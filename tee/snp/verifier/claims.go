package verifier

import (
	"encoding/hex"

	"github.com/cofferproject/coffer/tee/snp"
)

// Claims gives a report's claims: the published names first, with their types
// (numbers, booleans, lower-case hex), then additions.
func Claims(r *snp.Report) map[string]any {
	c := make(map[string]any, 64)
	c["policy_abi_major"] = r.Policy.ABIMajor()
	c["policy_abi_minor"] = r.Policy.ABIMinor()
	c["policy_smt_allowed"] = r.Policy.SMT()
	c["policy_migrate_ma"] = r.Policy.MigrateMA()
	c["policy_debug_allowed"] = r.Policy.Debug()
	c["policy_single_socket"] = r.Policy.SingleSocket()
	tcb(c, "reported_tcb_", r.ReportedTCB)
	c["platform_tsme_enabled"] = r.PlatformInfo.TSME()
	c["platform_smt_enabled"] = r.PlatformInfo.SMT()
	c["measurement"] = hex.EncodeToString(r.Measurement[:])
	c["report_data"] = hex.EncodeToString(r.ReportData[:])
	c["init_data"] = hex.EncodeToString(r.HostData[:])
	c["chip_id"] = hex.EncodeToString(r.ChipID[:])

	c["report_version"] = r.Version
	c["guest_svn"] = r.GuestSVN
	c["vmpl"] = r.VMPL
	c["policy_cxl_allowed"] = r.Policy.CXL()
	c["policy_mem_aes_256_xts"] = r.Policy.AES256XTS()
	c["policy_rapl_dis"] = r.Policy.RAPLDisabled()
	c["policy_ciphertext_hiding_dram"] = r.Policy.CiphertextHidingDRAM()
	c["policy_page_swap_disable"] = r.Policy.PageSwapDisabled()
	c["platform_ecc_enabled"] = r.PlatformInfo.ECC()
	c["platform_rapl_disabled"] = r.PlatformInfo.RAPLDisabled()
	c["platform_ciphertext_hiding_dram"] = r.PlatformInfo.CiphertextHidingDRAM()
	c["platform_alias_check_complete"] = r.PlatformInfo.AliasCheckComplete()
	c["platform_info"] = uint64(r.PlatformInfo)
	c["signing_key"] = map[bool]string{false: "vcek", true: "vlek"}[r.KeyInfo.SigningKey() == snp.KeyVLEK]
	c["author_key_enabled"] = r.KeyInfo.AuthorKey()
	c["family_id"] = hex.EncodeToString(r.FamilyID[:])
	c["image_id"] = hex.EncodeToString(r.ImageID[:])
	c["id_key_digest"] = hex.EncodeToString(r.IDKeyDigest[:])
	c["author_key_digest"] = hex.EncodeToString(r.AuthorKeyDigest[:])
	c["report_id"] = hex.EncodeToString(r.ReportID[:])
	tcb(c, "current_tcb_", r.CurrentTCB)
	tcb(c, "committed_tcb_", r.CommittedTCB)
	tcb(c, "launch_tcb_", r.LaunchTCB)
	c["current_firmware"] = r.Current.String()
	c["committed_firmware"] = r.Committed.String()
	if r.CPU != nil {
		c["cpuid_family"], c["cpuid_model"], c["cpuid_stepping"] = r.CPU.Family, r.CPU.Model, r.CPU.Stepping
	}
	if r.LaunchMit != nil && r.CurrentMit != nil {
		c["launch_mit_vector"], c["current_mit_vector"] = *r.LaunchMit, *r.CurrentMit
	}
	return c
}

func tcb(c map[string]any, prefix string, t snp.TCB) {
	if t.WithFMC {
		c[prefix+"fmc"] = t.FMC
	}
	c[prefix+"bootloader"], c[prefix+"tee"], c[prefix+"snp"], c[prefix+"microcode"] = t.Bootloader, t.TEE, t.SNP, t.Microcode
}
