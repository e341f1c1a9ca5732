// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"context"
	"errors"
	"testing"

	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/core/client/clienttest"
)

// methods are the reference's methods by the number that they have in the
// specification, and then what is required beside them.
var methods = []point{
	{"1 get_or_create_client_keypackages", together(methodKeyPackages, TestKeyPackages)},
	{"2 client_valid_key_packages_count", methodCountKeyPackages},
	{"3 delete_keypackages", methodDeleteKeyPackages},
	{"4 set_raw_external_senders", together(TestParseExternalSenders, TestExternalSenderProposes)},
	{"5 decrypt_message", together(methodDecrypt, TestDuplicatesAndLatecomers)},
	{"6 export_secret_key", together(methodExport, TestExporter)},
	{"7 get_client_ids", methodClientIDs},
	{"8 clear_pending_proposal", methodClearProposal},
	{"9 process_raw_welcome_message", methodRawWelcome},
	{"10 process_welcome_message", together(methodWelcome, TestWelcome)},
	{"11 wipe_conversation", methodWipe},
	{"12 conversation_guard", methodConversation},
	{"13 mark_conversation_as_child_of", methodChild},
	{"14 join_by_external_commit", together(methodJoin, TestExternalJoinRefused)},
	{"15 new_external_add_proposal", together(TestExternalAdd, TestExternalAddMakesACredential)},
	{"16 new_add_proposal", methodProposeAdd},
	{"17 new_remove_proposal", methodProposeRemove},
	{"18 new_update_proposal", methodProposeUpdate},
	{"19 mls_init", methodInit},
	{"20 mls_generate_keypairs", methodGenerateKeypairs},
	{"21 mls_init_with_client_id", methodInitLater},
	{"22 client_public_key", methodPublicKey},
	{"23 client_id", methodClientID},
	{"24 new_conversation", methodNewConversation},
	{"25 conversation_exists", methodExists},
	{"26 conversation_epoch", methodEpoch},
	{"27 conversation_ciphersuite", methodSuite},
	{"28 random_bytes", methodRandom},
	{"29 e2ei_conversation_state", together(methodState, TestStateIsStaged)},
	{"30 e2ei_verify_group_state", methodGroupInfoState},
	{"31 get_credential_in_use", methodGroupInfoState}, // one answer: a state, and why it is not verified
	{"32 e2ei_is_enabled", methodEnabled},
	{"33 get_device_identities", methodDeviceIdentities},
	{"34 get_user_identities", methodUserIdentities},
	{"35 e2ei_is_pki_env_setup", together(methodPKIReady, TestEnvironmentIsStaged)},
	{"36 e2ei_dump_pki_env", methodDumpPKI},
	{"37 e2ei_register_acme_ca", methodRegisterAnchor},
	{"38 e2ei_register_intermediate_ca_pem", methodRegisterIntermediate},
	{"39 e2ei_register_crl", methodRegisterCRL},
	{"40 e2ei_new_activation_enrollment", together(methodActivation, TestEnrollmentKeepsTheKey)},
	{"41 e2ei_new_rotate_enrollment", together(methodRotateEnrollment, TestEnrollmentsSideBySide)},
	{"42 save_x509_credential", together(methodSaveCredential, TestEnrollmentTakesTheRightCertificate)},
	{"43 delete_stale_key_packages", methodDeleteStale},
	{"44 e2ei_rotate", methodRotate},
	{"45 e2ei_enrollment_stash", methodStash},
	{"46 e2ei_enrollment_stash_pop", together(methodStash, TestEnrollmentIsTakenUpOnce)},
	{"47 e2ei_new_enrollment", together(methodNewEnrollment, TestEnrollmentOutsideTheStore)},
	{"48 e2ei_mls_init_only", methodInitWithEnrollment},
	{"49 proteus_init", together(methodProteusInit, TestProteusRefusals)},
	{"50 proteus_reload_sessions", methodProteusReload},
	{"51 proteus_session_from_prekey", methodProteusFromPreKey},
	{"52 proteus_session_from_message", together(methodProteusFromMessage, TestProteusPreKeys)},
	{"53 proteus_session_save", together(TestProteusConversation)}, // with the transaction, always
	{"54 proteus_session_delete", methodProteusDelete},
	{"55 proteus_session", methodProteusSession},
	{"56 proteus_session_exists", methodProteusExists},
	{"57 proteus_decrypt", methodProteusDecrypt},
	{"58 proteus_encrypt", TestProteusProcesses},
	{"59 proteus_encrypt_batched", TestProteusBatch},
	{"60 proteus_new_prekey", TestProteusPreKeys},
	{"61 proteus_new_prekey_auto", together(methodProteusPreKeyAuto, TestProteusPreKeys)},
	{"62 proteus_last_resort_prekey", TestProteusPreKeys},
	{"63 proteus_last_resort_prekey_id", methodProteusInit},
	{"64 proteus_fingerprint", methodProteusFingerprints},
	{"65 proteus_fingerprint_local", methodProteusFingerprints},
	{"66 proteus_fingerprint_remote", methodProteusFingerprints},
	{"67 proteus_cryptobox_migrate", TestMigrateCryptobox},
	{"68 mls_provider", methodProvider},
	{"69 finish", methodFinish},
	{"70 abort", methodAbort},
	{"71 set_data", methodSetData},
	{"72 get_data", methodData},
	{"clone and debug", methodPrint},
	{"Open", companionOpen},
	{"OpenInMemory", companionInMemory},
	{"Begin", companionBegin},
	{"Transaction", companionTransaction},
	{"SetTransport", companionSetTransport},
	{"read-only mirror", companionMirror},
	{"Close", companionClose},
	{"Wipe", companionWipe},
	{"UpdateKey", companionUpdateKey},
	{"OnEpochChange", companionObserve},
	{"GenerateDatabaseKey", companionDatabaseKey},
	{"EncryptMessage", companionEncrypt},
	{"DecryptMessage", companionDecrypt},
	{"AddMembers", companionAdd},
	{"RemoveMembers", companionRemove},
	{"UpdateKeyMaterial", companionUpdate},
	{"CommitPendingProposals", companionCommitPending},
	{"ClearPendingCommit", companionDiscard},
	{"HasPendingCommit", companionHasPending},
	{"ExternalSender", companionExternalSender},
	{"MLSTransport", companionTransport},
}

func TestMethodChecklist(t *testing.T) {
	t.Parallel()
	walk(t, methods)
}

// tries runs f in a transaction and wants an error, or none if it is nil.
func (w *world) tries(d *clienttest.Device, want error, f func(ctx context.Context, tx *client.Transaction) error) {
	w.Helper()
	if err := d.Transaction(w.Context(), f); !errors.Is(err, want) {
		w.Errorf("%v, want %v", err, want)
	}
}

// triesIn is tries on the chat.
func (w *world) triesIn(d *clienttest.Device, want error, f func(ctx context.Context, c *client.Conversation) error) {
	w.Helper()
	if err := in(w.Context(), d, f); !errors.Is(err, want) {
		w.Errorf("%v, want %v", err, want)
	}
}
