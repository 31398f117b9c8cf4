from transformers import GenerationMixin


class FBLTGenerationMixin(GenerationMixin):
    pass
