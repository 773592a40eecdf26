import torch

from codec.discriminators import Discriminators, PeriodDiscriminator, STFTDiscriminator


def test_judgements_are_those_of_the_members_in_their_order(speech):
    members = [STFTDiscriminator(64, 2), PeriodDiscriminator(3, 2), STFTDiscriminator(32, 2)]
    waveform = speech[..., :1000]
    judgements = Discriminators(members)(waveform)
    for member, judgement in zip(members, judgements, strict=True):
        expected = member(waveform)
        assert torch.equal(judgement.logits, expected.logits)
        for feature, expected_feature in zip(judgement.features, expected.features, strict=True):
            assert torch.equal(feature, expected_feature)


def test_all_members_train():
    members = [STFTDiscriminator(64, 2), PeriodDiscriminator(3, 2)]
    assert len(list(Discriminators(members).parameters())) == sum(len(list(each.parameters())) for each in members)
