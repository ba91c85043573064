"""What was published, and where; `effects.py` measures it here."""

from examples.reproduce import effects
from examples.reproduce.verdict import Claim

_GEMMA_SCOPE = "Lieberum et al. 2024"
_STITCHING = "Leask et al. 2025"

CLAIMS = (
    Claim(
        title="Wider is better at equal L0: reconstruction",
        source=f"{_GEMMA_SCOPE}, 4.3",
        published="wide SAEs provide better reconstruction fidelity at a given level of sparsity",
        effect="FVU saved by the next width",
        unit="% of the narrower coder's",
        measure=effects.wider_is_better_fvu,
    ),
    Claim(
        title="Wider is better at equal L0: loss",
        source=f"{_GEMMA_SCOPE}, fig. 4",
        published="curves of delta loss over L0 lie lower the wider the SAE",
        effect="delta loss saved by the next width",
        unit="millinats a token",
        measure=effects.wider_is_better_loss,
    ),
    Claim(
        title="Firing frequency shifts down with width",
        source=f"{_GEMMA_SCOPE}, fig. 5",
        published="most of the mass shifts towards lower frequencies with more latents",
        effect="median frequency of latents that fire, lower at the next width by",
        unit="decades",
        measure=effects.frequency_falls,
    ),
    Claim(
        title="r_L0 falls with L0",
        source=f"{_GEMMA_SCOPE}, C.3, fig. 16",
        published="the attributed effect becomes more diffuse as more latents are active",
        effect="r_L0 lost at the next higher L0",
        unit="(r_L0 lies between 0 and 1)",
        measure=effects.uniformity_falls,
    ),
    Claim(
        title="Loss rises over the first positions",
        source=f"{_GEMMA_SCOPE}, fig. 3",
        published="reconstruction loss increases rapidly from close to zero over the first tokens",
        effect="FVU at positions 9 to 16 above that at positions 1 and 2",
        unit="%",
        measure=effects.loss_rises,
    ),
    Claim(
        title="… and then flattens",
        source=f"{_GEMMA_SCOPE}, fig. 3",
        published="it plateaus, or peaks at the tenth token and declines slightly",
        effect="rise up to positions 9 to 16 less the change from there to the last quarter",
        unit="% of the FVU a position",
        measure=effects.loss_flattens,
    ),
    Claim(
        title="Skip transcoders raise the loss least",
        source="Paulo et al. 2025, fig. 1, table 1",
        published="a lower CE increase than transcoders and SAEs of the same size and k",
        effect="CE increase saved by the skip transcoder",
        unit="points of CE increase %",
        measure=effects.skip_is_best,
    ),
    Claim(
        title="Base coders transfer to the finetune",
        source=f"{_GEMMA_SCOPE}, 4.5, fig. 8",
        published="on rollouts the loss rises almost as little as with SAEs of the finetune",
        effect="base coder's delta loss below that of the finetune's (here: at most 50 % above)",
        unit="%",
        measure=effects.base_coders_transfer,
        bound=-50.0,
    ),
    Claim(
        title="… with a larger gap in FVU",
        source=f"{_GEMMA_SCOPE}, C.4, fig. 21",
        published="the gap between base and finetune SAEs is larger in FVU than in loss",
        effect="ratio of FVUs (base's to finetune's coder) less ratio of delta losses",
        unit="%",
        measure=effects.gap_is_larger_in_fvu,
    ),
    Claim(
        title="… and rescaling is no help",
        source=f"{_GEMMA_SCOPE}, C.4, fig. 23",
        published="no evidence that rescaling activations to the base's norm is beneficial",
        effect="FVU added by rescaling (here: it saves at most 1 %)",
        unit="% of the FVU",
        measure=effects.rescaling_is_no_help,
        bound=-1.0,
    ),
    Claim(
        title="Larger coders hold both novel and reconstruction latents",
        source=f"{_STITCHING}, stitching",
        published="some of its latents add what the smaller SAE lacks, others replace what it has",
        effect="latents of either sort (here: at least 5 %)",
        unit="% of the larger coder's that fire",
        measure=effects.both_novel_and_known,
        bound=5.0,
    ),
    Claim(
        title="… and the smaller coder lacks the novel ones",
        source=f"{_STITCHING}, fig. 11",
        published="where they are active the smaller SAE's MSE rises more than the larger one's",
        effect="rise of the smaller coder's MSE less that of the larger one's",
        unit="% of the smaller coder's MSE",
        measure=effects.novel_latents_are_missing,
    ),
    Claim(
        title="BatchTopK at least matches TopK",
        source="Bussmann et al. 2024",
        published="better reconstruction than TopK at the same average number of active latents",
        effect="FVU saved by BatchTopK at TopK's L0 (here: it adds at most 1 %)",
        unit="% of TopK's",
        measure=effects.batch_matches,
        bound=-1.0,
    ),
)
