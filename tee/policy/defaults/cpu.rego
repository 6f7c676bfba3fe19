# Coffer's default appraisal of what confidential VMs, enclaves and TPMs prove.
#
# Each claim starts at a value that is not affirming and is raised only by a rule
# of its TEE. AR4SI: executables 3 approved boot, 4 approved but for parts that are
# not measured one by one, 33 not recognised; hardware 2 genuine and supported, 97
# not recognised; configuration 2 known and approved, 3 no known weakness, 36 not
# available. A debug guest, into which its host can look, never gets past 36.
#
# The names of reference values are the published ones where those exist.
package policy

import rego.v1

trust_claims := {
	"executables": executables,
	"hardware": hardware,
	"configuration": configuration,
	"instance-identity": instance_identity,
	"file-system": 0,
	"runtime-opaque": 0,
	"storage-opaque": 0,
	"sourced-data": 0,
}

default executables := 33

default hardware := 97

default configuration := 36

default instance_identity := 0

# among is for digests that are registered as a list or as one.
among(x, value) if x in value

among(x, value) if x == value

##### AMD SEV-SNP

executables := 3 if {
	input.snp
	input.snp.measurement in query_reference_value("snp_launch_measurement")
}

hardware := 2 if {
	input.snp
	input.snp.reported_tcb_bootloader in query_reference_value("snp_bootloader")
	input.snp.reported_tcb_microcode in query_reference_value("snp_microcode")
	input.snp.reported_tcb_snp in query_reference_value("snp_snp_svn")
	input.snp.reported_tcb_tee in query_reference_value("snp_tee_svn")
}

configuration := 2 if {
	input.snp
	snp_closed
	snp_configured
}

configuration := 3 if {
	input.snp
	snp_closed
	not snp_configured
}

# What decides first is named first when it fails.
snp_closed if {
	input.snp.policy_debug_allowed == false
	input.snp.policy_migrate_ma == false
}

# Registered as lists, or all as one value each.
snp_configured if {
	input.snp.platform_smt_enabled in query_reference_value("snp_smt_enabled")
	input.snp.platform_tsme_enabled in query_reference_value("snp_tsme_enabled")
	input.snp.policy_abi_major in query_reference_value("snp_guest_abi_major")
	input.snp.policy_abi_minor in query_reference_value("snp_guest_abi_minor")
	input.snp.policy_single_socket in query_reference_value("snp_single_socket")
	input.snp.policy_smt_allowed in query_reference_value("snp_smt_allowed")
}

snp_configured if {
	input.snp.platform_smt_enabled == query_reference_value("snp_smt_enabled")
	input.snp.platform_tsme_enabled == query_reference_value("snp_tsme_enabled")
	input.snp.policy_abi_major == query_reference_value("snp_guest_abi_major")
	input.snp.policy_abi_minor == query_reference_value("snp_guest_abi_minor")
	input.snp.policy_single_socket == query_reference_value("snp_single_socket")
	input.snp.policy_smt_allowed == query_reference_value("snp_smt_allowed")
}

##### Intel TDX

# Direct boot: the log names kernel and parameters. Else (a boot loader did it)
# the registers alone speak for them.
executables := 3 if {
	input.tdx
	tdx_registers
	tdx_kernel
	tdx_parameters
}

executables := 4 if {
	input.tdx
	tdx_registers
	not tdx_logged
}

tdx_registers if {
	input.tdx.quote.body.rtmr_1 in query_reference_value("rtmr_1")
	input.tdx.quote.body.rtmr_2 in query_reference_value("rtmr_2")
}

tdx_logged if {
	tdx_kernel
	tdx_parameters
}

tdx_kernel if {
	some event in input.tdx.uefi_event_logs
	event.type_name == "EV_EFI_BOOT_SERVICES_APPLICATION"
	"File(kernel)" in event.details.device_paths
	some d in event.digests
	among(d.digest, query_reference_value("tdvfkernel"))
}

tdx_parameters if {
	some event in input.tdx.uefi_event_logs
	event.type_name == "EV_EVENT_TAG"
	event.details.string == "LOADED_IMAGE::LoadOptions"
	some d in event.digests
	among(d.digest, query_reference_value("tdvfkernelparams"))
}

hardware := 2 if {
	input.tdx
	input.tdx.quote.header.tee_type == "81000000"
	input.tdx.quote.header.vendor_id == "939a7233f79c4ca9940a0db3957f0607"
	input.tdx.quote.body.mr_td in query_reference_value("mr_td")
	input.tdx.tcb_status == "UpToDate"
	input.tdx.collateral_expiration_status == "0"
}

# RTMR 0 (memory, vCPUs, firmware settings) counts where its value is known.
configuration := 2 if {
	input.tdx
	input.tdx.td_attributes.debug == false
	input.tdx.quote.body.xfam in query_reference_value("xfam")
	query_reference_value("rtmr_0") == null
}

configuration := 2 if {
	input.tdx
	input.tdx.td_attributes.debug == false
	input.tdx.quote.body.xfam in query_reference_value("xfam")
	input.tdx.quote.body.rtmr_0 in query_reference_value("rtmr_0")
}

##### Intel SGX

executables := 3 if {
	input.sgx
	input.sgx.body.mr_enclave in query_reference_value("sgx_mr_enclave")
}

# By its signer, where the owner trusts whatever he signs from a version on.
executables := 4 if {
	input.sgx
	input.sgx.body.mr_signer in query_reference_value("sgx_mr_signer")
	input.sgx.body.isv_prod_id in query_reference_value("sgx_isv_prod_id")
	input.sgx.body.isv_svn in query_reference_value("sgx_isv_svn")
	not input.sgx.body.mr_enclave in query_reference_value("sgx_mr_enclave")
}

hardware := 2 if {
	input.sgx
	input.sgx.header.vendor_id == "939a7233f79c4ca9940a0db3957f0607"
	input.sgx.tcb_status == "UpToDate"
	input.sgx.collateral_expiration_status == "0"
}

# ATTRIBUTES.FLAGS is little-endian hex; DEBUG is bit 1 of its first byte.
configuration := 2 if {
	input.sgx
	substring(input.sgx.body["attributes.flags"], 1, 1) in {"0", "1", "4", "5", "8", "9", "c", "d"}
	input.sgx.body["attributes.flags"] in query_reference_value("sgx_attributes_flags")
}

configuration := 3 if {
	input.sgx
	substring(input.sgx.body["attributes.flags"], 1, 1) in {"0", "1", "4", "5", "8", "9", "c", "d"}
	not input.sgx.body["attributes.flags"] in query_reference_value("sgx_attributes_flags")
}

##### Unified kernel images below a vTPM
#
# PCR 11 alone proves nothing: whatever booted may extend it with another image's
# values. PCR 4 has the image as the firmware loaded it, before it ran. PCR 12 takes
# what the image's stub adds from outside of it (another command line, credentials,
# extensions): nothing, unless that is registered.

nothing_added(tpm, _) if regex.match("^0+$", tpm.pcr12)

nothing_added(tpm, name) if tpm.pcr12 in query_reference_value(name)

##### Azure confidential VM on SEV-SNP

executables := 3 if {
	input["az-snp-vtpm"]
	input["az-snp-vtpm"].measurement in query_reference_value("measurement")
	input["az-snp-vtpm"].tpm.pcr04 in query_reference_value("snp_pcr4")
	input["az-snp-vtpm"].tpm.pcr11 in query_reference_value("snp_pcr11")
	nothing_added(input["az-snp-vtpm"].tpm, "snp_pcr12")
}

hardware := 2 if {
	input["az-snp-vtpm"]
	input["az-snp-vtpm"].reported_tcb_bootloader in query_reference_value("tcb_bootloader")
	input["az-snp-vtpm"].reported_tcb_microcode in query_reference_value("tcb_microcode")
	input["az-snp-vtpm"].reported_tcb_snp in query_reference_value("tcb_snp")
	input["az-snp-vtpm"].reported_tcb_tee in query_reference_value("tcb_tee")
}

# The published claims of this TEE are strings.
configuration := 2 if {
	input["az-snp-vtpm"]
	input["az-snp-vtpm"].policy_debug_allowed in {"false", "0"}
	input["az-snp-vtpm"].policy_migrate_ma in {"false", "0"}
	input["az-snp-vtpm"].platform_smt_enabled in query_reference_value("smt_enabled")
	input["az-snp-vtpm"].platform_tsme_enabled in query_reference_value("tsme_enabled")
	input["az-snp-vtpm"].policy_abi_major in query_reference_value("abi_major")
	input["az-snp-vtpm"].policy_abi_minor in query_reference_value("abi_minor")
	input["az-snp-vtpm"].policy_single_socket in query_reference_value("single_socket")
	input["az-snp-vtpm"].policy_smt_allowed in query_reference_value("smt_allowed")
}

##### Azure confidential VM on TDX

executables := 3 if {
	input["az-tdx-vtpm"]
	input["az-tdx-vtpm"].tpm.pcr04 in query_reference_value("tdx_pcr4")
	input["az-tdx-vtpm"].tpm.pcr11 in query_reference_value("tdx_pcr11")
	nothing_added(input["az-tdx-vtpm"].tpm, "tdx_pcr12")
}

hardware := 2 if {
	input["az-tdx-vtpm"]
	input["az-tdx-vtpm"].quote.header.tee_type == "81000000"
	input["az-tdx-vtpm"].quote.header.vendor_id == "939a7233f79c4ca9940a0db3957f0607"
	input["az-tdx-vtpm"].quote.body.mr_td in query_reference_value("mr_td")
	input["az-tdx-vtpm"].tcb_status == "UpToDate"
	input["az-tdx-vtpm"].collateral_expiration_status == "0"
}

configuration := 2 if {
	input["az-tdx-vtpm"]
	input["az-tdx-vtpm"].td_attributes.debug == false
	input["az-tdx-vtpm"].quote.body.xfam in query_reference_value("xfam")
}

##### TPM

# Every event of the boot is explained by the owner's build: the verifier refuses
# any other evidence, and names here the set that explained it.
executables := 3 if {
	input.tpm
	input.tpm.reference.image
}

# As published, for guests that the owner's build does not foretell.
executables := 3 if {
	input.tpm
	not input.tpm.reference
	input.tpm.pcr11 in query_reference_value("tpm_pcr11")
	input.tpm.ak_public in query_reference_value("trusted_aks")
}

# The attestation key lives in a TPM of a registered maker, or is enrolled.
hardware := 2 if {
	input.tpm
	tpm_identified
}

tpm_identified if {
	input.tpm.ek_root
	tpm_unrevoked
}

# Most makers publish no revocation lists, so that one is asked for only where the
# owner says so: tpm_ek_crl: ["good"].
tpm_unrevoked if query_reference_value("tpm_ek_crl") == null

tpm_unrevoked if input.tpm.ek_crl in query_reference_value("tpm_ek_crl")

# Without an endorsement key the verifier passes enrolled keys alone.
tpm_identified if {
	input.tpm.ak_name
	not input.tpm.ek_root
}

tpm_identified if input.tpm.ak_public in query_reference_value("trusted_aks")

instance_identity := 2 if {
	input.tpm
	tpm_identified
}

configuration := 2 if {
	input.tpm
	tpm_closed
	input.tpm.initdata_digest
}

# Nothing is known about it.
configuration := 0 if {
	input.tpm
	tpm_closed
	not input.tpm.initdata_digest
}

tpm_closed if {
	input.tpm
	not contains(object.get(input.tpm, ["reference", "image"], ""), "debug")
}

##### Arm CCA

executables := 3 if {
	input.cca
	input.cca.realm["cca-realm-initial-measurement"] in query_reference_value("cca_realm_initial_measurement")
}

hardware := 2 if {
	input.cca
	input.cca.platform["cca-platform-implementation-id"] in query_reference_value("cca_platform_implementation_id")
	cca_secured
	cca_firmware
}

# Lifecycle 0x30.. secured, 0x40.. debugging of what is not part of the CCA
# platform; 0x50.. and others are open to a debugger, or not for use.
cca_secured if {
	input.cca.platform["cca-platform-lifecycle"] >= 12288
	input.cca.platform["cca-platform-lifecycle"] <= 12543
}

cca_secured if {
	input.cca.platform["cca-platform-lifecycle"] >= 16384
	input.cca.platform["cca-platform-lifecycle"] <= 16639
}

# Every software component of the platform is known by its measurement.
cca_firmware if {
	count(input.cca.platform["cca-platform-sw-components"]) > 0
	every c in input.cca.platform["cca-platform-sw-components"] {
		c["measurement-value"] in query_reference_value("cca_platform_sw_components")
	}
}

configuration := 2 if {
	input.cca
	cca_secured
	input.cca.platform["cca-platform-config"] in query_reference_value("cca_platform_config")
}

configuration := 3 if {
	input.cca
	cca_secured
	not input.cca.platform["cca-platform-config"] in query_reference_value("cca_platform_config")
}

##### Hygon CSV

executables := 3 if {
	input.csv
	input.csv.measure in query_reference_value("csv_measure")
}

hardware := 2 if {
	input.csv
	input.csv.policy.hsk_version in query_reference_value("csv_hsk_version")
	input.csv.policy.cek_version in query_reference_value("csv_cek_version")
}

configuration := 2 if {
	input.csv
	csv_flag(input.csv.policy.nodbg)
	csv_flag(input.csv.policy.noks)
	csv_flag(input.csv.policy.es)
	csv_flag(input.csv.policy.nosend)
}

csv_flag(x) if x in {true, 1, "1", "true"}

##### IBM Secure Execution: the verifier holds the image's keys, the owner names
##### the images.

executables := 3 if {
	input.se
	input.se.tag in query_reference_value("se_tag")
}

hardware := 2 if {
	input.se
	input.se.attestation_phkh in query_reference_value("se_attestation_phkh")
	input.se.image_phkh in query_reference_value("se_image_phkh")
}

configuration := 2 if {
	input.se
	input.se.version in query_reference_value("se_version")
}

##### AWS Nitro Enclaves and NitroTPM

executables := 3 if {
	input.nitro
	input.nitro.kind == "enclave"
	input.nitro.pcrs.pcr0 in query_reference_value("nitro_pcr0")
	input.nitro.pcrs.pcr1 in query_reference_value("nitro_pcr1")
	input.nitro.pcrs.pcr2 in query_reference_value("nitro_pcr2")
}

executables := 3 if {
	input.nitro
	input.nitro.kind == "nitrotpm"
	input.nitro.pcrs.pcr4 in query_reference_value("nitrotpm_pcr4")
	input.nitro.pcrs.pcr7 in query_reference_value("nitrotpm_pcr7")
	input.nitro.pcrs.pcr9 in query_reference_value("nitrotpm_pcr9")
	input.nitro.pcrs.pcr11 in query_reference_value("nitrotpm_pcr11")
}

# The chain to AWS's root is the verifier's.
hardware := 2 if {
	input.nitro
	input.nitro.module_id
}

# The registers of an enclave under debug are zero.
configuration := 2 if {
	input.nitro
	some register in ["pcr0", "pcr4"]
	value := input.nitro.pcrs[register]
	not regex.match("^0*$", value)
}

##### Google Cloud: a virtual TPM beside SEV-SNP or TDX

executables := 3 if {
	input.gcp.hardware == "snp"
	input.gcp.measurement in query_reference_value("snp_launch_measurement")
	input.gcp.tpm.pcr04 in query_reference_value("gcp_pcr4")
	input.gcp.tpm.pcr11 in query_reference_value("gcp_pcr11")
	nothing_added(input.gcp.tpm, "gcp_pcr12")
}

hardware := 2 if {
	input.gcp.hardware == "snp"
	input.gcp.reported_tcb_bootloader in query_reference_value("snp_bootloader")
	input.gcp.reported_tcb_microcode in query_reference_value("snp_microcode")
	input.gcp.reported_tcb_snp in query_reference_value("snp_snp_svn")
	input.gcp.reported_tcb_tee in query_reference_value("snp_tee_svn")
}

configuration := 3 if {
	input.gcp.hardware == "snp"
	input.gcp.policy_debug_allowed == false
	input.gcp.policy_migrate_ma == false
}

executables := 3 if {
	input.gcp.hardware == "tdx"
	input.gcp.tpm.pcr04 in query_reference_value("gcp_pcr4")
	input.gcp.tpm.pcr11 in query_reference_value("gcp_pcr11")
	nothing_added(input.gcp.tpm, "gcp_pcr12")
}

hardware := 2 if {
	input.gcp.hardware == "tdx"
	input.gcp.quote.body.mr_td in query_reference_value("mr_td")
	input.gcp.tcb_status == "UpToDate"
	input.gcp.collateral_expiration_status == "0"
}

configuration := 2 if {
	input.gcp.hardware == "tdx"
	input.gcp.td_attributes.debug == false
	input.gcp.quote.body.xfam in query_reference_value("xfam")
}

##### Samples, where an insecure switch allows them: they prove nothing.

executables := 3 if {
	input.sample
	input.sample.launch_digest in query_reference_value("launch_digest")
}

hardware := 2 if {
	input.sample
	input.sample.svn in query_reference_value("svn")
	input.sample.platform_version.major == query_reference_value("major_version")
	is_number(query_reference_value("minimum_minor_version"))
	input.sample.platform_version.minor >= query_reference_value("minimum_minor_version")
}

configuration := 2 if {
	input.sample
	input.sample.debug == false
}

##### What the pod policy in initdata says about the workload, for relying parties.

extensions := [{"name": "ear.trustee.identifiers", "key": -18, "value": {"validated": {}}}] if {
	not input.init_data_claims.agent_policy_claims
}

extensions := [{"name": "ear.trustee.identifiers", "key": -18, "value": {"validated": object.union(container_images, container_uids)}}] if {
	input.init_data_claims.agent_policy_claims
}

container_images := {"container_images": images} if {
	images := [image |
		some c in input.init_data_claims.agent_policy_claims.containers
		image := c.OCI.Annotations["io.kubernetes.cri.image-name"]
	]
	count(images) > 0
} else := {}

container_uids := {"container_uids": uids} if {
	uids := [uid |
		some c in input.init_data_claims.agent_policy_claims.containers
		uid := c.OCI.Process.User.UID
	]
	count(uids) > 0
} else := {}
