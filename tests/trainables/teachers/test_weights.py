"""Trained networks on disk: what is written is what is read, or it is refused."""

import json
from dataclasses import replace

import pytest
import torch

from trainables.compression.measure import size_bytes
from trainables.errors import UserError
from trainables.files import Folder, open_folder
from trainables.models.blueprint import Blueprint, build
from trainables.models.edits import Bits, Channels
from trainables.models.outputs import Network
from trainables.models.registry import create_model
from trainables.models.weights import Card, copy_network, read_card, read_network, save_network

FILE = "net.safetensors"
CARD = Card(
    name="small",
    model="resnet8_x0.25",
    dataset="digits",
    data_fingerprint="d" * 64,
    classes=10,
    image_shape=(1, 8, 8),
    mean=(0.3,),
    std=(0.4,),
    test_acc=0.5,
    params=1,
    macs=2,
    origin="{}",
)


@pytest.fixture
def folder(tmp_path) -> Folder:
    return open_folder(tmp_path / "nets")


def network(seed: int = 0) -> Network:
    torch.manual_seed(seed)
    made = create_model(CARD.model, CARD.classes, CARD.image_shape)
    made(torch.randn(4, 1, 8, 8))  # BatchNorm statistics differ from their initial values
    return made


def test_round_trip(folder: Folder) -> None:
    written = network().to(memory_format=torch.channels_last)
    card = save_network(folder, FILE, written, CARD)
    assert card == replace(CARD, fingerprint=card.fingerprint, created_at=card.created_at)
    found, read = read_network(folder, FILE)
    assert found == card == read_card(folder, FILE)
    ours, theirs = written.state_dict(), read.state_dict()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert [tensor.dtype for tensor in ours.values()] == [
        tensor.dtype for tensor in theirs.values()
    ]


def test_the_fingerprint_is_of_what_decides_the_outputs(folder: Folder) -> None:
    def fingerprint(made: Network, card: Card) -> str:
        return save_network(folder, FILE, made, card).fingerprint

    base = fingerprint(network(), CARD)
    assert len(base) == 64
    assert fingerprint(network(), replace(CARD, name="other", test_acc=0.9)) == base
    assert fingerprint(network().to(memory_format=torch.channels_last), CARD) == base
    assert fingerprint(network(1), CARD) != base
    assert fingerprint(network(), replace(CARD, mean=(0.31,))) != base
    moved = network()
    moved.get_buffer("bn1.running_mean")[0] += 1e-3
    assert fingerprint(moved, CARD) != base


RECORDED = "976890f9595ce6bfef068e18c409ada0d7485f2fbba5ec89cf7a2f1a0624646b"
KEPT = [0, 3]
EDITS = (
    Channels.kept({"layer1.0.conv1": KEPT, "layer1.0.bn1": KEPT}, inputs={"layer1.0.conv2": KEPT}),
    Bits.of({"conv1": 4}),
)


def test_an_edited_network_comes_back(folder: Folder) -> None:
    card = replace(CARD, edits=EDITS)
    written = build(card.blueprint, CARD.classes, CARD.image_shape)
    saved = save_network(folder, FILE, written, card)
    found, read = read_network(folder, FILE)
    assert found == saved
    assert found.blueprint == read.blueprint == Blueprint(CARD.model, EDITS)
    assert read.get_submodule("layer1.0.conv1").out_channels == 2
    assert size_bytes(read) == size_bytes(written)
    images = torch.randn(4, 1, 8, 8)
    assert torch.equal(written.eval()(images).logits, read.eval()(images).logits)
    copy_network(folder, FILE, "again.safetensors", "again")
    assert read_card(folder, "again.safetensors").blueprint == found.blueprint


def test_edits_are_part_of_the_fingerprint(folder: Folder) -> None:
    made = network()
    bits = [(), (Bits.of({"conv1": 4}),), (Bits.of({"conv1": 5}),)]
    prints = {save_network(folder, FILE, made, replace(CARD, edits=e)).fingerprint for e in bits}
    assert len(prints) == 3
    save_network(folder, FILE, made, replace(CARD, edits=bits[1]))
    data = folder.read(FILE)
    word = b'\\"conv1\\": 4'
    assert data.count(word) == 1
    folder.write(FILE, data.replace(word, word[:-1] + b"5"))
    with pytest.raises(UserError, match="is damaged: its weights hash to"):
        read_network(folder, FILE)


def test_without_edits_a_file_is_what_it_was(folder: Folder) -> None:
    """Byte for byte, so that older versions read it; its fingerprint was recorded then."""
    with torch.no_grad():
        made = create_model(CARD.model, CARD.classes, CARD.image_shape)
        for value in made.state_dict().values():
            value.copy_(torch.arange(value.numel()).reshape(value.shape) % 7)
    assert save_network(folder, FILE, made, CARD).fingerprint == RECORDED
    assert b"edits" not in folder.read(FILE)


def test_an_edit_of_a_package_that_is_not_here(folder: Folder) -> None:
    save_network(folder, FILE, network(), replace(CARD, edits=(Bits.of({"conv1": 4}),)))
    data = folder.read(FILE)
    word = b'\\"kind\\": \\"bits\\"'
    assert data.count(word) == 1
    folder.write(FILE, data.replace(word, word.replace(b"bits", b"bitz")))
    with pytest.raises(UserError, match=f"{FILE}: unknown edit 'bitz'; did you mean bits"):
        read_card(folder, FILE)


def test_a_missing_file_is_named(folder: Folder) -> None:
    with pytest.raises(UserError, match=f"no file {FILE} in .*nets"):
        read_network(folder, FILE)


def test_changed_weights_are_refused_with_both_fingerprints(folder: Folder) -> None:
    card = save_network(folder, FILE, network(), CARD)
    data = bytearray(folder.read(FILE))
    data[-100] ^= 1
    folder.write(FILE, bytes(data))
    with pytest.raises(UserError) as caught:
        read_network(folder, FILE)
    message = str(caught.value)
    assert message.startswith(f"{FILE} is damaged")
    assert f"expected {card.fingerprint[:12]}" in message
    assert "hash to " in message


def test_a_changed_normalisation_is_refused(folder: Folder) -> None:
    save_network(folder, FILE, network(), CARD)
    data = folder.read(FILE)
    assert data.count(b"0.3]") == 1
    folder.write(FILE, data.replace(b"0.3]", b"0.9]"))
    with pytest.raises(UserError, match="is damaged"):
        read_network(folder, FILE)


@pytest.mark.parametrize("kept", [0, 4, 8, 100, 2000, -1])
def test_a_truncated_file_is_refused(folder: Folder, kept: int) -> None:
    save_network(folder, FILE, network(), CARD)
    folder.write(FILE, folder.read(FILE)[:kept])
    for read in (read_card, read_network):
        with pytest.raises(UserError, match=f"{FILE} is damaged or not written by kdsweep"):
            read(folder, FILE)


def test_foreign_files_are_refused(folder: Folder) -> None:
    import safetensors.torch

    weights = {"weight": torch.ones(2)}
    foreign = [
        b"a text",
        safetensors.torch.save(weights),
        safetensors.torch.save(weights, {"format": "pt"}),
        safetensors.torch.save(weights, {"card": "no json"}),
        safetensors.torch.save(weights, {"card": "[1, 2]"}),
        safetensors.torch.save(weights, {"card": json.dumps({"name": "x"})}),
    ]
    for data in foreign:
        folder.write(FILE, data)
        with pytest.raises(UserError, match=f"{FILE} is damaged or not written by kdsweep"):
            read_card(folder, FILE)
